"""Which methods can stand beside a base in 8 or 4 bits."""

from collections.abc import Collection

from nora_studio.errors import StudioError

_LORA_LIKE = ("nora", "lora", "lora+", "lora-fa", "rslora", "adalora")
ON_QUANTISED = {
    # PEFT cannot load its other methods' files beside 8-bit layers without a copy in memory.
    8: frozenset(_LORA_LIKE),
    4: frozenset((*_LORA_LIKE, "dora", "vera", "vblora", "randlora", "oft")),
}
"""By bits. Other methods read a layer's weight as it lies in memory, or replace it."""


def work_on(methods: Collection[str], bits: int) -> bool:
    """Whether all of some methods can stand beside a base of so many bits."""
    return bits == 16 or ON_QUANTISED[bits].issuperset(methods)


def check_on_quantised(methods: Collection[str], bits: int) -> None:
    """Refuse methods that would misread a quantised base.

    Raises:
        StudioError: one is among them.
    """
    if not work_on(methods, bits):
        foreign = next(method for method in methods if method not in ON_QUANTISED[bits])
        raise StudioError(
            f"--base-bits {bits}: {foreign} needs the base's weights unquantised. Leave the option "
            f"out, or use one of {', '.join(sorted(ON_QUANTISED[bits]))}."
        )
