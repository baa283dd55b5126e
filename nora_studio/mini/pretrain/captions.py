"""Captions of the training pictures as token ids, written in worker processes."""

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from nora_studio.mini.pretrain.pictures import CHUNK
from nora_studio.mini.pretrain.tokenizer import CONTEXT_LENGTH, token_ids
from nora_studio.mini.world import sample_scenes, write_captions


@dataclass(frozen=True)
class CaptionIds:
    """The captions of scenes, as token ids."""

    partial: Tensor
    """(count, captions, 77) int16: captions that omit details, as people do."""
    full: Tensor
    """(count, 77) int16: captions that name every detail."""


@dataclass(frozen=True)
class PendingCaptions:
    """Captions that worker processes are writing."""

    count: int
    per_scene: int
    executor: ProcessPoolExecutor
    chunks: list[Future[tuple[np.ndarray, np.ndarray]]]

    def collect(self, device: str) -> CaptionIds:
        """Wait for all captions and put them on the device."""
        parts = [chunk.result() for chunk in self.chunks]
        self.executor.shutdown()
        partial = torch.from_numpy(np.concatenate([part for part, _ in parts]))
        full = torch.from_numpy(np.concatenate([whole for _, whole in parts]))
        return CaptionIds(partial.to(device), full.to(device))


def start_captions(
    count: int, seed: int, tokenizer_folder: Path, per_scene: int
) -> PendingCaptions:
    """Start the workers; call before CUDA is first used, because they are forked."""
    starts = range(0, count, CHUNK)
    workers = min(len(starts), 12, max(1, (os.cpu_count() or 2) - 3))
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
    chunks = [
        executor.submit(
            write_chunk,
            min(CHUNK, count - start),
            seed * 100_003 + number,
            str(tokenizer_folder),
            per_scene,
        )
        for number, start in enumerate(starts)
    ]
    return PendingCaptions(count, per_scene, executor, chunks)


def write_chunk(
    count: int, seed: int, tokenizer_folder: str, per_scene: int
) -> tuple[np.ndarray, np.ndarray]:  # (count, per_scene, 77), (count, 77), int16
    """Write the captions of the chunk of scenes that `seed` samples, as ids."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    scenes = sample_scenes(count, seed)
    partial = write_captions(scenes, seed, per_scene)
    full = write_captions(scenes, seed + 1, 1, full=True)
    texts = [caption for group in [*partial, *full] for caption in group]
    ids = np.asarray(token_ids(tokenizer, texts), dtype=np.int16)
    split = count * per_scene
    return ids[:split].reshape(count, per_scene, CONTEXT_LENGTH), ids[split:]
