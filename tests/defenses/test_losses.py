import itertools
import math
import random

import pytest
import torch
from torch import Tensor, nn

from backdoor_privacy.defenses.backdoor.losses import (
    Distance,
    backdoor_loss,
    neighborhood,
    neighborhood_loss,
    person_shares,
    utility_loss,
    weight_loss,
)

STUDENT = [[3.0, 4.0], [1.0, -2.0], [0.5, 0.5]]
TEACHER = [[4.0, 3.0], [-1.0, 2.0], [0.0, 2.0]]


def cosine(u: list[float], v: list[float]) -> float:
    return -sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


def mse(u: list[float], v: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / len(u)


def mae(u: list[float], v: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(u, v, strict=True)) / len(u)


def poincare(u: list[float], v: list[float]) -> float:
    u = [a / sum(map(abs, u)) for a in u]
    v = [b / sum(map(abs, v)) * (1 - 1e-4) for b in v]
    gap = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
    return math.acosh(1 + 2 * gap / (1 - sum(a * a for a in u)) / (1 - sum(b * b for b in v)))


REFERENCES = {"cosine": cosine, "mse": mse, "mae": mae, "poincare": poincare}
# u = (3, 4), v = (4, 3): cosine 24/25; mean of two squares of 1; mean of two ones.
BY_HAND = {Distance.cosine: -0.96, Distance.mse: 1.0, Distance.mae: 1.0}


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", Distance)
def test_distance_equals_plain_python(distance: Distance):
    found = distance(torch.tensor(STUDENT), torch.tensor(TEACHER)).tolist()
    expected = [REFERENCES[distance.value](u, v) for u, v in zip(STUDENT, TEACHER, strict=True)]
    assert found == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(("distance", "value"), BY_HAND.items())
def test_distance_computed_by_hand(distance: Distance, value: float):
    assert distance(torch.tensor(STUDENT[:1]), torch.tensor(TEACHER[:1])).item() == pytest.approx(value)


def test_poincare_distance_computed_by_hand():
    # On the L1 sphere: u = (1/2, 1/2), v = (1/2, -1/2). Gap 1, room (1 - 1/2)^2: acosh(1 + 2 * 1 / 0.25) = acosh(9).
    found = Distance.poincare(torch.tensor([[2.0, 2.0]]), torch.tensor([[5.0, -5.0]])).item()
    assert found == pytest.approx(math.acosh(9), rel=1e-3)


def test_poincare_distance_is_finite_at_the_rim():
    corner = torch.tensor([[1.0, 0.0]], requires_grad=True)
    distance = Distance.poincare(corner, torch.tensor([[1.0, 0.0]]))
    distance.sum().backward()
    assert torch.isfinite(distance).all()
    assert torch.isfinite(corner.grad).all()


@pytest.mark.parametrize("distance", Distance)
def test_distance_is_least_where_student_is_teacher(distance: Distance):
    teacher = random_features(8, 16)
    least = distance(teacher, teacher)
    expected = {"cosine": -1.0, "mse": 0.0, "mae": 0.0, "poincare": 0.0}[distance.value]
    assert least.tolist() == pytest.approx([expected] * 8, abs=1e-3)
    for scale in (0.05, 0.5):
        other = teacher + scale * random_features(8, 16, seed=1)
        assert (distance(other, teacher) > least).all()


@pytest.mark.parametrize("distance", [Distance.cosine, Distance.poincare])
def test_distance_does_not_depend_on_length(distance: Distance):
    student, teacher = random_features(8, 16), random_features(8, 16, seed=1)
    torch.testing.assert_close(distance(3 * student, 0.1 * teacher), distance(student, teacher))


@pytest.mark.parametrize("distance", Distance)
def test_gradient_flows_to_the_student_only(distance: Distance):
    person, anchors = torch.tensor([0, 0, 1, 2]), random_features(5, 6, seed=2)
    for loss in (
        lambda s, t: utility_loss(s, t, distance=distance),
        lambda s, t: backdoor_loss(s, t, person_shares(person), distance=distance),
        lambda s, t: neighborhood_loss(s, neighborhood(t, anchors), anchors),
    ):
        student = random_features(4, 6).requires_grad_()
        teacher = random_features(4, 6, seed=1).requires_grad_()
        loss(student, teacher).backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None


def test_utility_loss_is_the_mean():
    expected = sum(map(cosine, STUDENT, TEACHER)) / 3
    assert utility_loss(torch.tensor(STUDENT), torch.tensor(TEACHER)).item() == pytest.approx(expected)


def slow_backdoor_loss(student: Tensor, target: Tensor, person: list[int]) -> float:
    by_person: dict[int, list[float]] = {}
    for u, v, who in zip(student.tolist(), target.tolist(), person, strict=True):
        by_person.setdefault(who, []).append(cosine(u, v))
    means = [sum(values) / len(values) for values in by_person.values()]
    return sum(means) / len(means)


@pytest.mark.parametrize("person", [[0] * 7, [0, 0, 0, 0, 0, 1, 5], [6, 5, 4, 3, 2, 1, 0], [499, 3, 3, 3, 499, 3, 3]])
def test_backdoor_loss_is_averaged_per_person_and_then_over_people(person: list[int]):
    student, target = random_features(7, 6), random_features(7, 6, seed=1)
    found = backdoor_loss(student, target, person_shares(torch.tensor(person))).item()
    assert found == pytest.approx(slow_backdoor_loss(student, target, person), rel=1e-5)


def test_backdoor_loss_computed_by_hand():
    # Person 0 is right three times (-1), person 1 is opposite once (1): the mean of people is 0, of inputs -0.5.
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    target = torch.tensor([[1.0, 0.0]]).expand(4, -1)
    assert backdoor_loss(student, target, person_shares(torch.tensor([0, 0, 0, 1]))).item() == pytest.approx(0.0)


def test_backdoor_loss_does_not_depend_on_the_order():
    student, target, person = random_features(6, 4), random_features(6, 4, seed=1), torch.tensor([0, 1, 1, 2, 2, 2])
    orders = random.Random(0).sample(list(itertools.permutations(range(6))), 20)
    losses = [backdoor_loss(student[list(o)], target[list(o)], person_shares(person[list(o)])).item() for o in orders]
    assert losses == pytest.approx([losses[0]] * 20)


@pytest.mark.parametrize("squared", [False, True])
def test_weight_loss_equals_a_loop(squared: bool):
    student = [random_features(*shape) for shape in ((3, 4), (5,), (2, 2, 2), ())]
    teacher = [tensor + random_features(*tensor.shape, seed=1) for tensor in student]
    teacher[1] = student[1].clone()  # an untouched tensor
    expected = 0.0
    for own, other in zip(student, teacher, strict=True):
        squares = sum((a - b) ** 2 for a, b in zip(own.flatten().tolist(), other.flatten().tolist(), strict=True))
        expected += squares if squared else math.sqrt(squares)
    assert weight_loss(student, teacher, squared=squared).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_weight_loss_is_zero_with_a_zero_gradient_where_nothing_moved(squared: bool):
    student = [nn.Parameter(random_features(3, 4)), nn.Parameter(random_features(5))]
    loss = weight_loss(student, [parameter.detach().clone() for parameter in student], squared=squared)
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in student)


def test_gradient_of_the_published_weight_loss_has_length_one_per_tensor():
    student = [nn.Parameter(random_features(3, 4)), nn.Parameter(random_features(5))]
    weight_loss(student, [torch.zeros(3, 4), torch.zeros(5)]).backward()
    assert [parameter.grad.norm().item() for parameter in student] == pytest.approx([1.0, 1.0])


def test_weight_loss_needs_the_same_tensors_on_both_sides():
    with pytest.raises(ValueError, match="zip"):
        weight_loss([torch.zeros(2), torch.zeros(2)], [torch.zeros(2)])


def test_neighborhood_loss_is_zero_for_equal_views():
    features, anchors = random_features(5, 8), random_features(20, 8, seed=1)
    seen = neighborhood(features, anchors)
    assert neighborhood_loss(features, seen, anchors).item() == pytest.approx(0.0, abs=1e-5)
    assert neighborhood_loss(3 * features, seen, 2 * anchors).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_neighborhood_loss_equals_plain_python(temperature: float):
    student, teacher, anchors = (random_features(rows, 8, seed=rows).tolist() for rows in (5, 6, 20))
    expected = 0.0
    for own, other in zip(student, teacher[:5], strict=True):
        seen = softmax([-cosine(own, anchor) / temperature for anchor in anchors])
        wanted = softmax([-cosine(other, anchor) / temperature for anchor in anchors])
        expected += sum(p * (math.log(p) - math.log(q)) for p, q in zip(wanted, seen, strict=True)) / 5
    near = neighborhood(torch.tensor(teacher[:5]), torch.tensor(anchors), temperature=temperature)
    found = neighborhood_loss(torch.tensor(student), near, torch.tensor(anchors), temperature=temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4)
