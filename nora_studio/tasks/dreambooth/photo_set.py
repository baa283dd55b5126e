"""The photos of one training: found, inspected, cropped, encoded and batched."""

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
    """Photos that the trainer can use, with the prompt of each."""

    settings: PhotoSettings
    files: list[Path]
    sizes: list[Size]
    captions: list[str]
    """Each photo's prompt: its own caption, or the prompt for all."""
    findings: list[Finding]

    @classmethod
    def find(cls, settings: PhotoSettings, prompt: str, resolution: int) -> "PhotoSet":
        """Find and inspect the photos before any model loads, to report mistakes early.

        Args:
            prompt: Prompt of the photos without a caption.
            resolution: Side of the training images in pixels.

        Raises:
            StudioError: a photo, caption or mask cannot be used.
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
        photos.split()  # Raises an error if no photo is left to train on.
        return photos

    @property
    def warnings(self) -> list[str]:
        """Warnings about the photos, at most a few lines."""
        # Files that are not read come first: users would expect them to be learned.
        findings = sorted(self.findings, key=lambda finding: finding.kind != "unread")
        lines = [f"warning: {finding.message}" for finding in findings]
        if len(lines) > MOST_WARNINGS:
            rest = len(lines) - MOST_WARNINGS
            command = f"nora-studio check-photos {self.settings.folder}"
            lines = [*lines[:MOST_WARNINGS], f"warning: {rest} more; see `{command}`."]
        return lines

    @property
    def prompts(self) -> list[str]:
        """The distinct prompts; with caption dropout, the last is the empty one."""
        empty = [""] if self.settings.caption_dropout > 0 else []
        return [*dict.fromkeys(self.captions), *empty]

    def prompt_warnings(
        self, pipe: StableDiffusionXLPipeline, trigger: str, settings: DreamboothSettings
    ) -> list[str]:
        """Return warnings of truncated captions and prompts of the run."""
        prompt, previews, prior = settings.subject.prompt, settings.previews.prompts, settings.prior
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
        """Return how to crop the photos for a model of a resolution."""
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
        """Encode every view of every photo, or read it from the cache, and print a summary."""
        framing = self.framing(resolution, pipe.vae_scale_factor)
        store = stores.latents if stores else None
        caches = encode_photos(pipe, photo_views(self.files, framing), store, pipe.device)
        scale = pipe.vae_scale_factor
        shapes = [f"{c.mean.shape[3] * scale}x{c.mean.shape[2] * scale}" for c in caches]
        views = sum(len(cache.mean) for cache in caches)
        masked = " with masks" if caches[0].mask is not None else ""
        say(f"{len(self.files)} photos, {views} images{masked} of {', '.join(shapes)}")
        return caches

    def split(self) -> "tuple[PhotoSet, PhotoSet | None]":
        """Return the photos to train on, and the held-out ones, which are the last; None if none.

        Raises:
            StudioError: no photo is left to train on.
        """
        last = self.settings.hold_out
        if last >= len(self.files):
            raise StudioError(
                f"--hold-out: expected to hold out fewer than the {len(self.files)} "
                f"photos in {self.settings.folder}; got {last}."
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
        """Return a digest of each photo with its prompt and mask, by file name.

        Raises:
            StudioError: a photo was removed, or cannot be read any more.
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
                    f"{file} cannot be read any more: {error.strerror}. Put it back, and do not "
                    "change the photos until the training has started."
                ) from error
            digests[file.name] = digest.hexdigest()
        return digests

    def check_record(self, began: dict[str, str]) -> None:
        """Refuse photos that changed while they were read: it is unknown which version was used.

        Raises:
            StudioError: a photo changed.
        """
        now = self.record()
        changed = [file for file in self.files if now[file.name] != began[file.name]]
        if changed:
            raise StudioError(
                f"{changed[0]} changed while it was read. Start again, and do not change the "
                "photos until the training has started."
            )

    def prompt_numbers(self, prompts: list[str]) -> Tensor:  # (photos,)
        """Return the index of each photo's prompt among some prompts."""
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
            timesteps: Train on timesteps below this.
            prompts: All prompts, in the order of their encodings.
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
    """Return an error with the first finding in full, and the names of the other photos."""
    first, *rest = unusable
    names = ", ".join(dict.fromkeys(one.file.name for one in rest))
    more = (
        f" Other photos cannot be used either ({names}): see `nora-studio check-photos {folder}`."
        if rest
        else ""
    )
    return first.message + more


def _check_masks(settings: PhotoSettings, files: list[Path], any_alpha: bool) -> None:
    """Refuse options of masks if there are none."""
    if settings.masks == "alpha" and not any_alpha:
        raise StudioError(
            f"--masks alpha: no photo in {settings.folder} has a transparent part. Cut the "
            "subject out and save it as PNG, or leave --masks out."
        )
    needs_files = settings.masks == "files" and settings.expects_masks
    if needs_files and not find_mask_files(files).of:
        raise StudioError(
            "--mask-floor needs masks (has no effect without them), and there are none in "
            f"{settings.folder}, such as 3.mask.png next to 3.jpg. Add some, or leave --mask-floor "
            "out."
        )
