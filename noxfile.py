"""One place for chores: `uv run nox -l` lists them, `uv run nox -s NAME` does one."""

import nox

nox.options.default_venv_backend = "none"  # `uv run nox` has installed the project and its tools already
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on a few cores and print the coverage of the package; what follows -- goes to pytest."""
    session.run("coverage", "erase")
    # File by file: what a session prepares, above all the toy pipeline, serves many tests of one file.
    workers = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    session.run("pytest", *workers, "--cov=musicldm", "--cov-report=term:skip-covered", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Look for mistakes and for unformatted code."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package and of the tests."""
    session.run("mypy")


@nox.session(venv_backend="venv")
def docs(session: nox.Session) -> None:
    """Build the site of docs/ in site/; a broken link is an error. `nox -s docs -- serve` shows it as you write."""
    session.install("zensical==0.0.73")
    session.run("zensical", *(session.posargs or ("build", "--clean", "--strict")))


@nox.session
def demo(session: nox.Session) -> None:
    """Go the whole way from composed songs to a new wav, in the folder demo/."""
    session.run("musicldm", "demo")


@nox.session(venv_backend="venv")
@nox.parametrize("versions", ["newest", "lowest"])
def fresh(session: nox.Session, versions: str) -> None:
    """Install the project from nothing, without constraints, and run every verb; with the lowest versions as well."""
    if versions == "newest":
        session.install(".")
    else:
        # pip always takes the newest. Without its configuration, since uv would read our own constraints there.
        lowest = ["--no-config", "--resolution", "lowest-direct", "--python", session.virtualenv.location]
        session.run("uv", "pip", "install", *lowest, ".", external=True)
    session.run("python", "tests/fresh.py")
