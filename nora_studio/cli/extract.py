"""`nora-studio extract`: fit a NoRA to the difference of two models."""

import torch
from torch import nn

from nora_studio import __version__
from nora_studio.adapters.base_digests import digests_of
from nora_studio.adapters.files.adapter_folders import save_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.files.extraction import Fit, extract_part
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import count_parameters, detach
from nora_studio.cli.commands.extract import Options
from nora_studio.cli.opening import check_out_folder
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl, native_resolution, parts_of, used_targets


def run(options: Options) -> int:
    """Write the adapter, print how well it fits, and return the exit status."""
    out = check_out_folder(options.out)
    if not 1 <= options.rank <= options.outer_rank:
        raise StudioError(
            f"--rank: expected 1 to {options.outer_rank} (--outer-rank); got {options.rank}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load_sdxl(options.base, torch.float32, device)
    tuned = parts_of(load_sdxl(options.tuned, torch.float32))
    fits: dict[str, Fit] = {}
    adapted: dict[str, nn.Module] = {}
    for part, module in parts_of(pipe).items():
        targets = used_targets(part, module, options.targets)
        fit = extract_part(
            module, tuned[part].state_dict(), targets, options.rank, options.outer_rank
        )
        if fit is None:
            detach(module)
            continue
        fits[part], adapted[part] = fit, module
    if not fits:
        raise StudioError(
            f"--tuned: {options.tuned} does not differ from {options.base} in any "
            f"{options.targets} layer, so there is nothing to extract. Name another model."
        )
    save_adapter(out, adapted, _card(options, adapted, native_resolution(pipe)))
    for part, fit in fits.items():
        print(
            f"{part}: {fit.layers} layers, error {fit.error:.3g} (worst {fit.worst:.3g}, "
            f"{fit.worst_layer}); captures {fit.captured:.1%} of their change, {fit.reachable:.1%} "
            f"reachable at this outer rank; they hold {fit.adapted:.1%} of the part's change"
        )
    print(out)
    return 0


def _card(options: Options, adapted: dict[str, nn.Module], resolution: int) -> AdapterCard:
    return AdapterCard(
        method="nora",
        model=options.base,
        fingerprints={part: fingerprint(module) for part, module in adapted.items()},
        trigger=options.trigger,
        prompt=options.prompt,
        resolution=resolution,
        steps=0,
        seed=0,
        parameters=sum(count_parameters(module) for module in adapted.values()),
        version=__version__,
        digests=digests_of(adapted),
    )
