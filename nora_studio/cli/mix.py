"""`nora-studio mix`: add several adapters up, exactly, in one LoRA file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nora_studio.adapters.base_digests import digests_differ
from nora_studio.adapters.files.adapter_file import open_subject_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.files.updates import Updates, mix
from nora_studio.adapters.fingerprints import fingerprints_agree
from nora_studio.adapters.new_tokens import join_tokens
from nora_studio.cli.commands.mix import Options
from nora_studio.cli.export import write_lora
from nora_studio.cli.opening import (
    AdapterOnBase,
    check_out_file,
    check_rank,
    open_updates,
    title_of,
)
from nora_studio.errors import StudioError


def run(options: Options) -> int:
    """Write the file, print what is in it, and return the exit status."""
    check_rank(options.rank)
    out = check_out_file(options.out)
    weights = match_weights(options.adapters, options.weights)
    opened, updates = open_several(options.adapters, options.model, options.rank)
    tokens = join_tokens([entry.adapter.new_tokens() for entry in opened])
    card = mixed_card([entry.card for entry in opened], weights)
    mixed = mix(updates, weights)
    first = replace(opened[0], card=card)
    write_lora(
        out, first, mixed, options.to, options.precision, options.rank, out.stem, tokens=tokens
    )
    for entry, weight in zip(opened, weights, strict=True):
        print(f"  {weight:g} x {title_of(entry.adapter.path)} ({entry.card.method})")
    return 0


def match_weights(adapters: Sequence[Path], weights: Sequence[float]) -> list[float]:
    """Return one finite weight for each adapter; 1 for each if no weights are given.

    Raises:
        StudioError: there is no adapter, the numbers of weights and adapters differ, or a weight is
            not finite.
    """
    if not adapters:
        raise StudioError(
            "--adapters: expected at least one run, adapter folder or file; got none."
        )
    weights = list(weights) or [1.0] * len(adapters)
    if len(weights) != len(adapters):
        raise StudioError(
            f"--weights: expected one number for each of {len(adapters)} adapters; got "
            f"{len(weights)}."
        )
    if not all(abs(weight) < 1e6 for weight in weights):
        raise StudioError(f"--weights: expected numbers between -1e6 and 1e6; got {weights}.")
    return weights


def open_several(
    paths: Sequence[Path], model: str | None, rank: int | None
) -> tuple[list[AdapterOnBase], list[Updates]]:
    """Open adapters of one base and read their updates.

    Raises:
        StudioError: an adapter cannot be read, or two belong to different bases.
    """
    opened: list[AdapterOnBase] = []
    updates: list[Updates] = []
    for path in paths:
        # A file that names no base gets the one of the adapters before it.
        known = model or next((entry.card.model for entry in opened), None)
        adapter = open_subject_adapter(path)
        entry, own = open_updates(adapter, model or adapter.card.model or known, rank)
        opened.append(entry)
        updates.append(own)
    for entry in opened[1:]:
        _check_same_base(opened[0], entry)
    return opened, updates


def _check_same_base(first: AdapterOnBase, other: AdapterOnBase) -> None:
    for part, prints in other.card.fingerprints.items():
        expected = first.card.fingerprints.get(part)
        digests = (card.digests.get(part, "") for card in (first.card, other.card))
        agree = expected is None or fingerprints_agree(expected, prints)
        if not agree or digests_differ(*digests):
            raise StudioError(
                f"--adapters: expected adapters of one base; {other.adapter.path} was trained on "
                f"another base ({other.card.model}) than {first.adapter.path} "
                f"({first.card.model}). Leave one of them out."
            )


def mixed_card(cards: Sequence[AdapterCard], weights: Sequence[float]) -> AdapterCard:
    """Return one card for the sum of adapters: words joined, parameters added up."""
    first = cards[0]
    if len(cards) == 1:
        return first
    words = list(dict.fromkeys(card.trigger for card in cards if card.trigger))
    parts = {part: prints for card in cards for part, prints in card.fingerprints.items()}
    digests = {part: digest for card in cards for part, digest in card.digests.items()}
    licences = {card.licence for card in cards}
    return replace(
        first,
        method="mix",
        fingerprints=parts,
        digests=digests,
        trigger=" ".join(words),
        tokens=[word for card in cards for word in card.tokens],
        prompt=" / ".join(card.prompt for card in cards if card.prompt),
        steps=max(card.steps for card in cards),
        parameters=sum(card.parameters for card in cards),
        licence=licences.pop() if len(licences) == 1 else "",
    )
