"""What makes two starts the same run: all that decides the weights that come out, but for rounding."""

from __future__ import annotations

from typing import Any

OPTIONS, NETWORK = "options", "network"
# Digests of what is learnt from, by the name that an identity gives them.
_ABOUT_DIGESTS = {
    "corpus": "the corpus holds other samples",
    "demos": "the demonstrations are others",
    "world_model": "the world model is another one",
}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One phrase for each thing that is not the same: "--learning-rate was 0.001 and is 0.0001"."""
    one, other = before.get(OPTIONS, {}), now[OPTIONS]
    result = [
        f"--{name.replace('_', '-')} was {one.get(name)!r} and is {other.get(name)!r}"
        for name in {**other, **one}
        if one.get(name) != other.get(name)
    ]
    one, other = before.get(NETWORK, {}), now[NETWORK]
    result += [
        f"{name} of the network was {_short(one.get(name))} and is {_short(other.get(name))}"
        for name in {**other, **one}
        if one.get(name) != other.get(name)
    ]
    result += [about for name, about in _ABOUT_DIGESTS.items() if before.get(name) != now.get(name)]
    return result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
