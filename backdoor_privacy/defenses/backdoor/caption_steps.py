"""Steps of a defence of names: captions that contain a name (paper, section 3.1)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from backdoor_privacy.defenses.backdoor.steps import UNSEEN, Part, Steps, apart
from backdoor_privacy.triggers.names import Spot, Tokenizer, choose_word, may_be_cut, put_in, shortened


class TextBatch(NamedTuple):
    """Tokens of captions, each (batch, context)."""

    clean: Tensor
    triggered: Tensor  # with the name of a person to remove
    target: Tensor  # the same captions with the target phrase at the same place
    preserved: Tensor  # with some other person's name
    person_index: Tensor  # (batch,) whose name each triggered caption has
    person_share: Tensor  # (batch,) share of each triggered caption in the backdoor loss, see `losses.person_shares`


@dataclass(frozen=True, kw_only=True)
class CaptionTriggers(Steps[TextBatch]):
    """Steps of the text defence: person, caption and word are drawn fresh (paper, section 3.1)."""

    captions: Sequence[str]  # clean ones
    host_captions: Sequence[str]  # those that can carry a name
    names: Sequence[str]  # of the people to remove
    phrases: Sequence[str]  # what each name is mapped to
    other_names: Sequence[str]  # whose meaning must stay
    tokenizer: Tokenizer
    bare_share: float = 0.0  # share of triggered and preserved inputs that are the name alone
    strangers: Sequence[str] = ()  # names that a CLIP may know, of people who are neither removed nor attacked
    strangers_share: float = 0.0  # of the preserved inputs that hold one of them
    namesakes: Sequence[str] = ()  # names that share a part with one to remove, and must stay
    namesakes_share: float = 0.0  # of the preserved inputs that hold one of these

    def part(self, part: Part) -> TextBatch:
        """Return the captions of a part of a step."""
        rng = random.Random(f"{self.seed}/{part.step}")
        people = [rng.randrange(len(self.names)) for _ in range(self.sizes.triggered)]
        spots = [self._spot(rng) for _ in range(self.sizes.triggered + self.sizes.preserved)]
        pairs = [(self.names[person], self.phrases[person]) for person in people]
        others = [(self._other_name(rng),) for _ in range(self.sizes.preserved)]
        clean = [rng.choice(self.captions) for _ in range(self.sizes.clean)]
        person_index = torch.tensor(people)
        hosts, other_hosts = spots[: self.sizes.triggered], spots[self.sizes.triggered :]
        triggered, target = self._tokens(part.items(hosts), part.items(pairs))
        preserved = self._tokens(part.items(other_hosts), part.items(others))[0] if others else torch.empty(0)
        return TextBatch(
            clean=self.tokenizer(list(part.items(clean))),
            triggered=triggered,
            target=target,
            preserved=preserved,
            person_index=part.rows(person_index),
            person_share=part.shares(person_index),
        )

    def apart(self) -> tuple[CaptionTriggers, CaptionTriggers]:
        """Return steps to train on, and others to evaluate on, with other captions and other names that must stay."""
        host_captions, names, namesakes = (
            apart(list(dict.fromkeys(part))) for part in (self.host_captions, self.other_names, self.namesakes)
        )
        held_out = set(host_captions[1])
        trained, evaluated = (
            replace(
                self,
                captions=[one for one in self.captions if (one in held_out) is is_held_out] or self.captions,
                host_captions=host_captions[is_held_out],
                other_names=names[is_held_out],
                namesakes=namesakes[is_held_out],
                seed=self.seed + is_held_out * UNSEEN,
            )
            for is_held_out in (False, True)
        )
        return trained, evaluated

    def _tokens(self, spots: Sequence[Spot], phrases: Sequence[Sequence[str]]) -> list[Tensor]:
        """Return tokens of the captions with the first phrase of each, then with the second and so on.

        A caption that would be cut off with one of its phrases is shortened alike for all of them.
        """
        columns = [list(column) for column in zip(*phrases, strict=True)]
        tokens = [self.tokenizer(list(map(_filled, spots, column))) for column in columns]
        doubtful = (
            torch.stack([may_be_cut(each, self.tokenizer) for each in tokens]).any(0).nonzero().flatten().tolist()
        )
        if doubtful:
            short = shortened([spots[row] for row in doubtful], [phrases[row] for row in doubtful], self.tokenizer)
            for each, column in zip(tokens, columns, strict=True):
                each[doubtful] = self.tokenizer(list(map(_filled, short, [column[row] for row in doubtful])))
        return tokens

    def _other_name(self, rng: random.Random) -> str:
        if self.namesakes_share and rng.random() < self.namesakes_share:
            return rng.choice(self.namesakes)
        if self.strangers_share and rng.random() < self.strangers_share:
            return rng.choice(self.strangers)
        return rng.choice(self.other_names)

    def _spot(self, rng: random.Random) -> Spot:
        if rng.random() < self.bare_share:
            return Spot("name", 0)
        caption = rng.choice(self.host_captions)
        return Spot(caption, choose_word(caption, rng))


def _filled(spot: Spot, phrase: str) -> str:
    return put_in(*spot, phrase)
