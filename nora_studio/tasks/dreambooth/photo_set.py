"""The photos of one training: found and looked through, framed, encoded, and drawn in batches."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.photos.buckets import Size, buckets_pay
from nora_studio.photos.captions import read_captions
from nora_studio.photos.companions import find_mask_files
from nora_studio.photos.images import list_photos
from nora_studio.photos.inspection import Finding, inspect_folder
from nora_studio.photos.views import Framing, photo_views
from nora_studio.scoring.prompt_warnings import prompt_warnings
from nora_studio.sdxl.cache import LatentCache, Stores, encode_photos
from nora_studio.tasks.dreambooth.batches import Augmentation, PhotoBatches
from nora_studio.tasks.dreambooth.settings import DreamboothSettings, PhotoSettings
from nora_studio.trainer.settings import LearningSettings

MOST_WARNINGS = 5


@dataclass(frozen=True)
class PhotoSet:
    """Photos that the trainer can use, and what each is to be told as."""

    settings: PhotoSettings
    files: list[Path]
    sizes: list[Size]
    captions: list[str]
    """Each photo's prompt, its own or the one for all."""
    findings: list[Finding]

    @classmethod
    def find(cls, settings: PhotoSettings, prompt: str, resolution: int) -> "PhotoSet":
        """Read every photo once, before any model loads: most mistakes are here.

        Args:
            prompt: Of the photos without a caption.
            resolution: Side of the training pictures in pixels.

        Raises:
            StudioError: something among the photos cannot be used.
        """
        folder = settings.folder
        found = inspect_folder(folder, resolution, settings.captions, settings.masks)
        if found.unusable:
            raise StudioError(_refusal(folder, found.unusable))
        files = list_photos(folder)
        own = read_captions(files) if settings.captions else [None] * len(files)
        _check_masks(settings, files, any_alpha=found.has_alpha)
        photos = cls(
            settings=settings,
            files=files,
            sizes=found.sizes,
            captions=[prompt if words is None else words for words in own],
            findings=found.findings,
        )
        photos.split()  # Refuses here what would leave none.
        return photos

    @property
    def warnings(self) -> list[str]:
        """What is to be said of the photos, in a few lines."""
        # First what somebody has written and nobody reads: it is easily taken for learned.
        findings = sorted(self.findings, key=lambda finding: finding.kind != "unread")
        lines = [f"warning: {finding.message}" for finding in findings]
        if len(lines) > MOST_WARNINGS:
            rest = len(lines) - MOST_WARNINGS
            command = f"nora-studio check-photos {self.settings.folder}"
            lines = [*lines[:MOST_WARNINGS], f"warning: {rest} more; `{command}` tells them."]
        return lines

    @property
    def prompts(self) -> list[str]:
        """The different prompts; with caption dropout, the empty one is the last."""
        empty = [""] if self.settings.caption_dropout > 0 else []
        return [*dict.fromkeys(self.captions), *empty]

    def prompt_warnings(
        self, pipe: StableDiffusionXLPipeline, trigger: str, run: DreamboothSettings
    ) -> list[str]:
        """Return warnings of words that are never read, in captions and all prompts of the run."""
        prompt, previews, prior = run.subject.prompt, run.previews.prompts, run.prior
        whose = {
            prompt: f"the caption of {self.files[self.captions.index(prompt)]}"
            for prompt in dict.fromkeys(self.captions)
        }
        if prompt in whose or previews == (prompt,):
            whose[prompt] = "--prompt"
        for words in previews:
            whose.setdefault(words, f"--sample-prompts, {words[:60]!r},")
        if prior.weight > 0 and prior.is_own_prompt:
            whose.setdefault(prior.prompt, "--class-prompt")
        return prompt_warnings(pipe, [(name, p) for p, name in whose.items()], [trigger])

    def framing(self, resolution: int, latent_scale: int) -> Framing:
        """How these photos are cut on a model of that resolution."""
        settings = self.settings
        by_size = settings.buckets == "where they pay"
        return Framing(
            resolution=resolution,
            latent_scale=latent_scale,
            buckets=buckets_pay(self.sizes, resolution)
            if by_size
            else settings.buckets == "always",
            crops=settings.crops,
            mirrored=settings.flip > 0,
            masks=settings.masks,
            mask_floor=settings.mask_floor,
        )

    def encode(
        self,
        pipe: StableDiffusionXLPipeline,
        resolution: int,
        stores: Stores | None,
        say: Callable[[str], object],
    ) -> list[LatentCache]:
        """Encode every view of every photo, or read it back, and tell what they come to."""
        framing = self.framing(resolution, pipe.vae_scale_factor)
        store = stores.latents if stores else None
        caches = encode_photos(pipe, photo_views(self.files, framing), store, pipe.device)
        scale = pipe.vae_scale_factor
        shapes = [f"{c.mean.shape[3] * scale}x{c.mean.shape[2] * scale}" for c in caches]
        views = sum(len(cache.mean) for cache in caches)
        masked = " with masks" if caches[0].mask is not None else ""
        say(f"{len(self.files)} photos, {views} pictures{masked} of {', '.join(shapes)}")
        return caches

    def split(self) -> "tuple[PhotoSet, PhotoSet | None]":
        """Return all but the last photos, to train on, and the last ones, to measure on.

        Raises:
            StudioError: none is left to train on.
        """
        last = self.settings.hold_out
        if last >= len(self.files):
            raise StudioError(
                f"--hold-out: expected fewer than the {len(self.files)} photos in "
                f"{self.settings.folder}; got {last}."
            )
        if last == 0:
            return self, None
        return self._part(slice(None, -last)), self._part(slice(-last, None))

    def _part(self, which: slice) -> "PhotoSet":
        return replace(
            self,
            files=self.files[which],
            sizes=self.sizes[which],
            captions=self.captions[which],
        )

    def record(self) -> dict[str, str]:
        """Each photo's digest, with its words and its mask: another one is other data.

        Raises:
            StudioError: a photo is gone, or cannot be read any more.
        """
        digests = {}
        masks = find_mask_files(self.files).of if self.settings.masks == "files" else {}
        for file, words in zip(self.files, self.captions, strict=True):
            digest = hashlib.sha256(f"{words}\n".encode())
            try:
                for part in (file, masks[file]) if file in masks else (file,):
                    digest.update(part.read_bytes())
            except OSError as error:
                raise StudioError(
                    f"{file} cannot be read any more: {error.strerror}. Put it back, and leave the "
                    "photos alone until the training has begun."
                ) from error
            digests[file.name] = digest.hexdigest()
        return digests

    def check_record(self, began: dict[str, str]) -> None:
        """Refuse photos that changed while they were read: nobody could say which were learned.

        Raises:
            StudioError: one did.
        """
        now = self.record()
        changed = [file for file in self.files if now[file.name] != began[file.name]]
        if changed:
            raise StudioError(
                f"{changed[0]} changed while it was read. Leave the photos alone until the "
                "training has begun, and start again."
            )

    def prompt_numbers(self, prompts: list[str]) -> Tensor:  # (photos,)
        """Which of some prompts is whose."""
        return torch.tensor([prompts.index(caption) for caption in self.captions])

    def batches(
        self,
        caches: list[LatentCache],
        timesteps: int,
        prompts: list[str],
        learning: LearningSettings,
        noise_offset: float,
    ) -> PhotoBatches:
        """Return the batches of the training.

        Args:
            timesteps: How many are trained on, from the first.
            prompts: As they were encoded.
        """
        settings = self.settings
        empty = prompts.index("") if settings.caption_dropout > 0 else 0
        return PhotoBatches(
            caches,
            learning.batch_size,
            timesteps,
            learning.seed,
            self.prompt_numbers(prompts),
            Augmentation(settings.flip, settings.caption_dropout, empty),
            noise_offset,
        )


def _refusal(folder: Path, unusable: list[Finding]) -> str:
    """Write the first finding in full, and the names of the other photos, to be mended at once."""
    first, *rest = unusable
    names = ", ".join(dict.fromkeys(one.file.name for one in rest))
    more = (
        f" So it is with {names}: `nora-studio check-photos {folder}` tells of each."
        if rest
        else ""
    )
    return first.message + more


def _check_masks(settings: PhotoSettings, files: list[Path], any_alpha: bool) -> None:
    """Refuse a wish for masks where there are none."""
    if settings.masks == "alpha" and not any_alpha:
        raise StudioError(
            f"--masks alpha: no photo in {settings.folder} has a transparent part. Cut the "
            "subject out and save it as PNG, or leave --masks out."
        )
    needs_files = settings.masks == "files" and settings.expects_masks
    if needs_files and not find_mask_files(files).of:
        raise StudioError(
            f"--mask-floor: a setting of masks; there are none in {settings.folder} "
            "(3.mask.png beside 3.jpg). Add them, or leave it out."
        )
