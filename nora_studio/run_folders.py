"""The folder of a run that the options ask for: a new one, or the one to go on with."""

from nora_studio.config import DreamboothOptions
from nora_studio.errors import StudioError
from nora_studio.options_file import to_toml
from nora_studio.runs import Run


def find_run(options: DreamboothOptions, method: str) -> Run:
    """A method's run: a new name, made only once all input is known good; or the one to resume."""
    folder = options.output_dir / f"{options.run_name}-{method}"
    if options.resume:
        run = Run.open(folder)
        run.check_config(to_toml(options))
        if method == "adalora" and options.steps != run.planned_steps:
            raise StudioError(
                f"--steps: AdaLoRA allots its ranks over the {run.planned_steps} steps that "
                f"{folder} was planned for; it cannot go on longer. Begin a new run."
            )
        return run
    run = Run(folder)
    run.check_new()
    return run
