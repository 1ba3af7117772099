"""GPUs that can be tuned for from elsewhere: what a card is, by name.

Facts as the CUDA driver reports them; the architecture is named as the compiler names it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One kind of GPU.

    Attributes:
        name: on the command line and in the database.
        label: what the driver calls the device.
        shared_bytes: shared memory of one multiprocessor, what the driver keeps for itself included.
    """

    name: str
    label: str
    arch: str
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int


_HOPPER_SHARED = 228 << 10
CARDS = {
    card.name: card
    for card in (
        Card("nvidia-h100", "NVIDIA H100 80GB HBM3", "sm_90a", 132, _HOPPER_SHARED, 50 << 20),
        Card("nvidia-h200", "NVIDIA H200", "sm_90a", 132, _HOPPER_SHARED, 60 << 20),
    )
}


def by_label(label: str) -> Card | None:
    """The card that the driver calls so; None where none is known."""
    return next((card for card in CARDS.values() if card.label == label), None)
