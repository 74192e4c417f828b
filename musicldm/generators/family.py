"""A generator's family out of its parts: what the commands need to build, train, plan and describe it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from musicldm.core.bundle import Component
from musicldm.core.registry import resolve
from musicldm.generators.base import GeneratorFamily, LatentGenerator, NoOptions

if TYPE_CHECKING:
    from musicldm.generators.module import GeneratorModule
    from musicldm.latents.schema import StoreHeader
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal


def latent_generator(
    model: type[GeneratorModule],
    from_component: Callable[..., LatentGenerator],
    run_config: type[Any],
    training: str,
    package: str,
    options: type[Any] = NoOptions,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    upgrade_component: Callable[[Component], Component] = lambda component: component,
) -> GeneratorFamily:
    """The family of a generator that is a torch module.

    Args:
        model: what is trained.
        from_component: see `GeneratorFamily`.
        run_config: the dataclass of a whole training; see `generators.base.RunConfig`.
        training: where its `GeneratorTraining` is, as `package.module:Class`; it is built with the run's configuration
            and its `Material`. A name, since whoever only samples needs no training engine.
        package: the package whose `presets/` folder has its presets.
        options: the dataclass of its own sampling options.
        upgrade: a run's configuration as an earlier release wrote it -> as `run_config` has it.
        upgrade_component: the same for a component of a bundle.
    """

    def train(*arguments: Any) -> TrainingResult:
        # In here and not above, as is what `rehearsal` needs: whoever only samples never gets this far.
        from musicldm.generators.training import train_generator

        trained = partial(train_generator, resolve(training), upgrade=upgrade, upgrade_component=upgrade_component)
        return trained(*arguments)

    def rehearsal(config: Any, header: StoreHeader) -> Rehearsal:
        from musicldm.generators.training import rehearsal_of

        return rehearsal_of(resolve(training), config, header)

    def describe(config: Any) -> list[tuple[str, str]]:
        import torch

        with torch.device("meta"):  # only to be counted
            parameters = sum(weight.numel() for weight in model(config).parameters())
        return [("parameters", f"{parameters / 1e6:.1f} M")]

    return GeneratorFamily(
        name=model.kind,
        package=package,
        from_component=from_component,
        run_config=run_config,
        train=train,
        rehearsal=rehearsal,
        options=options,
        describe=describe,
        upgrade=upgrade,
    )
