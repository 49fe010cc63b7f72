"""How often names and shapes tell a network's head, over published families; `make survey`.

Every family is asked for in the order of registration, in sorted order, and under a prefix. An
answer is right, open (the tool says that it cannot tell) or wrong; wrong is what must not be. Then
nets are trained in several flatten orders, and z-scores printed, beside those of untrained ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import further  # noqa: F401 - registers its families
import trained
from architectures import Architecture, every

from fcn_convert.infer.chains import find_chains
from fcn_convert.infer.evidence import Sample, weigh
from fcn_convert.infer.heads import find_heads
from fcn_convert.infer.network import Network
from fcn_convert.infer.readings import readings
from fcn_convert.spec import FeatureMap

ORDERS = (("registration", ""), ("sorted", ""), ("registration", "module."), ("sorted", "module."))


@dataclass(frozen=True)
class Answer:
    """What the tool says of one architecture in one order."""

    architecture: Architecture
    order: str
    verdict: Literal["right", "open", "wrong"]
    said: str

    @property
    def is_decidable(self) -> bool:
        """Whether the file decides, so that nothing but the right answer will do."""
        return self.order in self.architecture.decides


def ask(architecture: Architecture, order: str, prefix: str = "") -> Answer:
    """Look at names and shapes alone, as before any weight is read."""
    network = Network(architecture.state_dict(order, prefix))
    chains, unclear = find_chains(network, find_heads(network))
    wanted = {prefix + name: sizes for sizes, layers in architecture.heads for name in layers}
    found = {name: chain.maps.likeliest for chain in chains for name in chain.layers}
    said = "; ".join(f"{chain.layers}: {chain.maps.likeliest or 'open'}" for chain in chains)
    # A layer is right with its map, and so it is where its kernel is 1×1 by either reading.
    stated = {name: fmap.sizes for name, fmap in found.items() if fmap is not None}
    if any(name not in wanted or wanted[name] != sizes for name, sizes in stated.items()):
        return Answer(architecture, order, "wrong", said)
    missing = wanted.keys() - stated.keys()
    if any(name not in found and name not in unclear for name in missing):
        return Answer(architecture, order, "wrong", said or "no head")
    return Answer(architecture, order, "open" if missing or unclear else "right", said)


def survey() -> list[Answer]:
    """Ask for every architecture in every order."""
    return [
        ask(architecture, order, prefix) for architecture in every() for order, prefix in ORDERS
    ]


def orders() -> None:
    """Print what weights say of the orders of small nets, trained and untrained."""
    for make in (trained.trained, trained.untrained):
        for recipe in trained.RECIPES:
            found = readings([FeatureMap("CHW", recipe.sizes)])
            evidence = weigh([Sample(make(recipe)["classifier.0.weight"])], found)
            scores = ", ".join(f"{s.reading.flatten} {s.z:.1f}" for s in evidence.scores)
            said = evidence.best.reading.flatten if evidence.best else "no evidence"
            print(f"{make.__name__} {recipe}: {said} (z: {scores})")


def main() -> None:
    """Print what is not right, and the shares, then what weights say."""
    answers = survey()
    for answer in answers:
        if answer.verdict != "right":
            name = answer.architecture.name
            print(f"{answer.verdict}: {name} ({answer.order}): {answer.said}")
    decidable = [answer for answer in answers if answer.is_decidable]
    right = sum(answer.verdict == "right" for answer in decidable)
    counts = Counter(answer.verdict for answer in answers)
    print(f"{len(answers)} questions: " + ", ".join(f"{n} {v}" for v, n in counts.items()))
    print(
        f"where the file decides: {right} of {len(decidable)} right, {right / len(decidable):.1%}"
    )
    orders()


if __name__ == "__main__":
    main()
