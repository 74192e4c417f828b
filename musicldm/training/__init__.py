"""The training engine, which knows no codec and no generator.

config     how a network is trained                 trainable  what a model must say about itself to be trained
loop       `fit`: a run from its folder to its end  step       one optimizer step, and the verdict on its loss
state      progress, and what a step came to        rng        random numbers that belong to crops
data       batches and their worker processes       processes  several devices, launched by lightning.fabric
rollback   back to the last good checkpoint         checkpoints, run_folder, logging, demos: what is on disk
rehearsal, memory_trace, cuda_allocator, memory_plan: what fits into a GPU
"""
