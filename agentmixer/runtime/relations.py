"""How the elements of an agent's observation go together, as far as an audit must know to tell a fault of wiring from play.

Every element has three models of how likely its values are, measured on the deployed team's own episodes: **alone**; from the **others** of
the same decision; and from the decision **before**, its action included, and the others now. An element of at most `ATOMS` values has a
table of probabilities, and a tree of tests on other elements that chooses a row of the table. Any other element has quantiles,
of itself or of what is left when a sum of at most `TERMS` other elements predicts it. So each gives a likelihood, and likelihoods of
different explanations of the same log can be compared: `runtime.wiring_search` does.

T is the number of decisions, K the number of elements that have figures (`Profile.elements`), F the number of `action_features`.
A test or a term has the number of what it looks at: k is element k of this decision, K + k element k of the decision before,
2K + f feature f of the action before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agentmixer.contract.spec import ActionSpace, Box
from agentmixer.runtime.actions import ranges

#: Quantiles of an element are `CELLS` equal shares.
CELLS = 16
TERMS = 6
ATOMS = 8
#: Tests from a tree's root to a leaf.
DEPTH = 4
NODES, LEAVES = 2**DEPTH - 1, 2**DEPTH
#: Windows of so many decisions are what figures of a log are held against.
WINDOW = 200
#: Most decisions that trees are grown from.
FIT_ROWS = 6000
#: Tables hold natural logarithms in steps of a sixteenth.
STEP = 16.0
#: What an element can be: without a model, the same in all decisions, of few values, of many.
NOTHING, CONSTANT, FEW, MANY = range(4)
#: The models, and what no model covers: values outside all that was seen.
ALONE, OTHERS, BEFORE, OUTSIDE = range(4)
#: Weight of `OUTSIDE`; what the first value far outside costs.
OUTSIDE_WEIGHT, FIRST_FAR = 0.5, 50.0


class Relations(NamedTuple):
    """The models of all K elements. Zeros where an element has none."""

    #: [K] uint8: NOTHING, CONSTANT, FEW or MANY.
    kind: np.ndarray
    #: [K, 2] float32: mean and standard deviation (of a CONSTANT element its size). An element in these units is "standard".
    standard: np.ndarray
    #: [K, 3, CELLS + 1] float16: of MANY, quantiles of the standard element; of what OTHERS leave of it; of what BEFORE leaves of its change.
    cells: np.ndarray
    #: [K, 2, TERMS] int16 and float32: what OTHERS and BEFORE add up, -1 for nothing, and by which weights.
    terms: np.ndarray
    weights: np.ndarray
    #: [K] uint8 and [K, ATOMS] float32: how many values an element of FEW has, and which, rising.
    values: np.ndarray
    atoms: np.ndarray
    #: [K, ATOMS] uint8: negative logarithms of the atoms' shares, times STEP.
    shares: np.ndarray
    #: [K, 2, NODES] int16 and float32: what each node of the trees of OTHERS and BEFORE looks at, -1 for a leaf's stem, and the threshold above
    #: which it goes right. Node i goes on to 2 i + 1 and 2 i + 2.
    tests: np.ndarray
    thresholds: np.ndarray
    #: [K, 2, LEAVES, ATOMS] uint8: in each leaf the negative logarithms of the atoms' probabilities, times STEP.
    leaves: np.ndarray
    #: [K, 3] float32 each: mean surprise of a window, how much it varies between windows, and how much a decision's surprise weighs,
    #: 0 to 1: less than 1 where surprises come together.
    usual: np.ndarray
    spread: np.ndarray
    weight: np.ndarray


def layout(elements: int) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of every array, for K elements."""
    k = elements
    return [
        ("uint8", (k,)), ("float32", (k, 2)), ("float16", (k, 3, CELLS + 1)), ("int16", (k, 2, TERMS)),
        ("float32", (k, 2, TERMS)), ("uint8", (k,)), ("float32", (k, ATOMS)), ("uint8", (k, ATOMS)), ("int16", (k, 2, NODES)),
        ("float32", (k, 2, NODES)), ("uint8", (k, 2, LEAVES, ATOMS)), ("float32", (k, 3)), ("float32", (k, 3)),
        ("float32", (k, 3)),
    ]  # fmt: skip


def action_features(actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Actions [T] or [T, W] as numbers that a sum or a test can use, [T, F] float64: 0 and 1 for each choice; real values in units of half
    their range."""
    rows = actions.reshape(len(actions), -1)
    if isinstance(space, Box):
        of = ranges(space)
        return np.asarray((rows.astype(np.float64) - of.centre) / of.scale)
    return np.concatenate(
        [np.eye(n)[column - start] for column, (n, start) in zip(rows.T, space.choices, strict=True)], 1
    )


def check(relations: Relations, features: int) -> None:
    """Raises ValueError for relations that no episodes give, or that look at what there is not. features: F."""
    elements = len(relations.kind)
    few, many = relations.kind == FEW, relations.kind == MANY
    rising = np.arange(1, ATOMS) < relations.values[:, None]
    sound = (
        (relations.kind <= MANY).all(), (relations.values <= ATOMS).all(), (relations.values[few] >= 2).all(),
        (np.diff(relations.atoms, axis=1)[rising] > 0).all(), (np.diff(relations.cells[many], axis=2) >= 0).all(),
        (relations.standard[relations.kind > NOTHING, 1] > 0).all(), (relations.spread >= 0).all(),
        ((relations.weight >= 0) & (relations.weight <= 1)).all(),
    )  # fmt: skip
    looked = np.concatenate([relations.terms.reshape(-1), relations.tests.reshape(-1)])
    if not all(sound) or not ((looked >= -1) & (looked < 2 * elements + features)).all():
        raise ValueError("relations between its elements are none that episodes give")


def without(relations: Relations, elements: np.ndarray) -> Relations:
    """The same without the models of some elements, given by a mask [K] bool. Models of others may still look at them."""
    left = Relations(*(array.copy() for array in relations))
    for name, array in left._asdict().items():
        if name != "standard":
            array[elements] = NOTHING
    return left


def nothing(elements: int) -> Relations:
    """Relations that know nothing of any element."""
    return Relations(*(np.zeros(shape, kind) for kind, shape in layout(elements)))


def measure(obs: np.ndarray, fresh: np.ndarray, features: np.ndarray) -> Relations:
    """The relations of T decisions in a row. obs [T, K]; fresh [T] bool, where an episode began; features [T, F] of the actions."""
    found, exact = nothing(obs.shape[1]), obs.astype(np.float64)
    mean, deviation = exact.mean(0), exact.std(0)
    varies = deviation > 1e-6 * (1 + np.abs(mean))
    found.standard[:] = np.stack([mean, np.where(varies, deviation, np.maximum(np.abs(mean), 1e-3))], 1)
    found.kind[:] = np.where(varies, MANY, CONSTANT)
    follows = np.flatnonzero(~fresh[1:]) + 1
    if len(follows) < 2 * WINDOW or not varies.any():
        found.kind[varies] = NOTHING
        return found
    moments = _Moments(exact, follows, features, varies, found)
    for j in np.flatnonzero(varies).tolist():
        atoms = np.unique(exact[:, j])
        if len(atoms) <= ATOMS:
            found.kind[j] = FEW
            moments.grow(j, atoms)
        else:
            moments.add_up(j)
    _calibrate(found, exact, fresh, features)
    return found


class _Moments:
    """What the models of all elements are made from: decisions that follow another of their episode."""

    def __init__(
        self, exact: np.ndarray, follows: np.ndarray, features: np.ndarray, varies: np.ndarray, found: Relations
    ):
        self.found, self.size, self.exact = found, exact.shape[1], exact
        centre, unit = found.standard.T.astype(np.float64)
        standard = (exact - centre) / unit
        self.now, self.change = standard[follows], standard[follows] - standard[follows - 1]
        self.all = np.concatenate([self.now, standard[follows - 1], features[follows - 1]], 1)
        centred = self.all - self.all.mean(0)
        self.products = centred.T @ centred / len(centred)
        self.size_of = np.sqrt(np.maximum(np.diag(self.products), 1e-12))
        self.with_change = centred.T @ (self.change - self.change.mean(0)) / len(centred)
        self.usable = np.concatenate([varies, varies, self.size_of[2 * self.size :] > 1e-6])
        self.same_time = self.usable & (np.arange(self.all.shape[1]) < self.size)
        chosen = np.random.default_rng(0).permutation(len(follows))[:FIT_ROWS]
        self.rows = np.sort(chosen)
        at = follows[self.rows]
        self.at, self.raw = at, np.concatenate([exact[at], exact[at - 1], features[at - 1]], 1)

    def add_up(self, j: int) -> None:
        """Sums that predict element j and its change, and quantiles of what they leave."""
        found, shares = self.found, np.linspace(0, 1, CELLS + 1)
        found.cells[j, 0] = np.quantile((self.exact[:, j] - found.standard[j, 0]) / found.standard[j, 1], shares)
        wanted = (
            (self.products[:, j], self.now[:, j], self.same_time),
            (self.with_change[:, j], self.change[:, j], self.usable),
        )
        for model, (with_target, target, usable) in enumerate(wanted):
            terms, weights = _select(self.products, with_target, usable & (np.arange(len(usable)) != j), target.var())
            found.terms[j, model] = -1
            found.terms[j, model, : len(terms)], found.weights[j, model, : len(terms)] = terms, weights
            left = target - self.all[:, terms] @ found.weights[j, model, : len(terms)]
            found.cells[j, 1 + model] = np.quantile(left, shares)

    def grow(self, j: int, atoms: np.ndarray) -> None:
        """Trees that predict which of its values element j has."""
        found, count = self.found, len(atoms)
        found.values[j] = count
        found.atoms[j, :count] = atoms
        kept = found.atoms[j, :count]
        of_all = np.abs(self.exact[:, j, None] - kept).argmin(1)
        found.shares[j, :count] = _logarithms(np.bincount(of_all, minlength=count) / len(of_all))
        value = of_all[self.at]
        # Decisions in a row that leave the value as it is are worth one. Such a run ends where the value changes, or where it is cut off: of
        # decisions that were drawn, in proportion to how many were.
        changes = (np.diff(of_all) != 0)[self.at - 1].sum()
        cuts = (np.diff(self.at) > 1).sum() * len(self.at) / len(of_all)
        runs = 1 + int(changes) + int(cuts)
        alike = max(1.0, len(value) / runs)
        strength = np.maximum(np.abs(self.products[:, j]), np.abs(self.with_change[:, j])) / self.size_of
        for model, usable in enumerate((self.same_time, self.usable)):
            usable = usable & (np.arange(len(usable)) != j)
            best = np.argsort(-np.where(usable, strength, -1), kind="stable")[: 12 + 8 * model]
            actions = np.arange(2 * self.size, len(usable))[:12] if model else ()
            picked = np.unique([k for k in (*best, *actions) if usable[k]]).astype(np.int64)
            found.tests[j, model], found.thresholds[j, model], leaves = _tree(
                self.raw[:, picked], picked, value, count, alike
            )
            found.leaves[j, model, :, :count] = _logarithms(leaves)


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(-STEP * np.log(np.maximum(probabilities, 1e-12))), 0, 255).astype(np.uint8)


def _select(
    products: np.ndarray, with_target: np.ndarray, usable: np.ndarray, variance: float
) -> tuple[list[int], np.ndarray]:
    """Forward selection: which terms predict a target best, and their weights (least squares). products [M, M]: covariances of the
    candidates; with_target [M]: theirs with the target."""
    size, weights = np.sqrt(np.maximum(np.diag(products), 1e-12)), np.zeros(0)
    terms: list[int] = []
    rest, left = with_target, max(variance, 1e-12)
    for _ in range(TERMS):
        gain = np.where(usable, np.abs(rest) / size, 0.0)
        gain[terms] = 0.0
        best = int(gain.argmax())
        if gain[best] ** 2 < 0.005 * left:
            break
        terms.append(best)
        own = products[np.ix_(terms, terms)]
        weights = np.linalg.solve(own + 1e-4 * np.diag(own).mean() * np.eye(len(terms)), with_target[terms])
        rest = with_target - products[:, terms] @ weights
        left = max(float(variance - with_target[terms] @ weights), 1e-9 * variance)
        if left < 1e-6 * variance:
            break
    return terms, weights


def _tree(
    columns: np.ndarray, numbers: np.ndarray, value: np.ndarray, count: int, alike: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tree grown by entropy: tests [NODES], thresholds [NODES], probabilities of the `count` values [LEAVES, count].

    columns [T, M] with their numbers [M]; value [T]: which value the element has; alike: how many decisions in a row are worth one."""
    tests, thresholds, asked = np.full(NODES, -1), np.zeros(NODES), []
    answers = []
    for column, number in zip(columns.T, numbers, strict=True):
        levels = np.unique(column)
        cuts = (levels[1:] + levels[:-1]) / 2 if len(levels) <= 4 else np.quantile(column, (0.15, 0.5, 0.85))
        for cut in np.unique(cuts.astype(np.float32)):
            asked.append((int(number), cut))
            answers.append(column > cut)
    yes = np.stack(answers, 1).astype(np.float32) if answers else np.zeros((len(value), 0), np.float32)
    one = np.eye(count, dtype=np.float32)[value]
    prior = (one.sum(0) + 0.5) / (len(value) + 0.5 * count)
    node, least = np.zeros(len(value), np.int64), 20 + 6 * alike
    for i in range(NODES):
        rows = np.flatnonzero(node == i)
        node[rows] = 2 * i + 1
        all_here = one[rows].sum(0)
        if len(rows) < 2 * least or not len(asked) or (all_here > 0).sum() < 2:
            continue
        right = yes[rows].T @ one[rows]
        left = all_here - right
        gain = _entropy(all_here) - _entropy(right) - _entropy(left)
        gain[np.minimum(right.sum(1), left.sum(1)) < least] = 0
        best = int(gain.argmax())
        if gain[best] < 5 * alike:
            continue
        tests[i], thresholds[i] = asked[best]
        node[rows] += yes[rows, best].astype(np.int64)
    counts = np.zeros((LEAVES, count))
    np.add.at(counts, node - NODES, one)
    return tests, thresholds, (counts + 4 * alike * prior) / (counts.sum(1, keepdims=True) + 4 * alike)


def _entropy(counts: np.ndarray) -> np.ndarray:
    """Of counts [..., count], in nats and times their sum."""
    total = np.maximum(counts.sum(-1, keepdims=True), 1e-9)
    return np.asarray(-(counts * np.log(np.maximum(counts, 1e-9) / total)).sum(-1))


def _calibrate(found: Relations, exact: np.ndarray, fresh: np.ndarray, features: np.ndarray) -> None:
    """How surprising windows of the episodes are by their own models."""
    found.weight[:] = 1
    steps, models = len(exact), Models(found)
    surprise = models.surprise(exact, fresh, features, range(exact.shape[1]))[..., :OUTSIDE]
    begin = range(0, steps - WINDOW + 1, WINDOW if steps >= 60 * WINDOW else max(1, (steps - WINDOW) // 60))
    windows = np.stack([surprise[b : b + WINDOW].mean(0) for b in begin])
    found.usual[:] = windows.mean(0)
    found.spread[:] = np.maximum(windows.std(0), 0.4 * (windows.max(0) - found.usual)) + 0.01
    together = WINDOW * windows.var(0) / np.maximum(surprise.var(0), 1e-9)
    found.weight[:] = 1 / np.maximum(together, 1)


class _Cells(NamedTuple):
    """A density from quantiles. bounds [C + 1] rising; surprise [C]: of a value in each cell; span: from the least to the largest."""

    bounds: np.ndarray
    surprise: np.ndarray
    span: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """Negative logarithm of the density at each value; beyond the cells it grows with the logarithm of the distance."""
        cell = np.clip(np.searchsorted(self.bounds, values, side="right") - 1, 0, len(self.surprise) - 1)
        far = np.maximum(self.bounds[0] - values, values - self.bounds[-1])
        return np.asarray(self.surprise[cell] + 2 * np.log1p(8 * np.maximum(far, 0) / self.span))


def _cells(quantiles: np.ndarray) -> _Cells:
    """Quantiles that are alike to within a thousandth of their range are one value that is taken often."""
    edges = quantiles.astype(np.float64)
    span = max(edges[-1] - edges[0], 1e-4)
    near, bounds, masses, at = 1e-3 * span, [edges[0] - 0.5e-3 * span], [], 0
    while at < CELLS:
        end = at + 1
        while end < CELLS and edges[end + 1] - edges[at] <= near:
            end += 1
        alike = edges[end] - edges[at] <= near
        bounds.append(max(edges[end] + (near / 2 if alike or end == CELLS else 0), bounds[-1] + near / 8))
        masses.append(end - at)
        at = end
    return _Cells(np.array(bounds), np.log(np.diff(bounds) * CELLS / np.array(masses)), span)


class Models:
    """Relations, ready to be asked how surprising observations are."""

    def __init__(self, relations: Relations):
        self.relations, self.size = relations, len(relations.kind)
        self.centre, self.unit = relations.standard.T.astype(np.float64)
        self.least, self.most = np.zeros((2, self.size))
        self._cells: dict[int, list[_Cells]] = {}
        self._sums: dict[int, list[tuple[np.ndarray, np.ndarray, float]]] = {}
        for j in range(self.size):
            if relations.kind[j] == MANY:
                self._cells[j] = [_cells(quantiles) for quantiles in relations.cells[j]]
                self._sums[j] = [self._sum(j, model) for model in range(2)]
                self.least[j], self.most[j] = self.centre[j] + self.unit[j] * relations.cells[j, 0, [0, -1]].astype(
                    float
                )
            elif relations.kind[j] == FEW:
                self.least[j], self.most[j] = relations.atoms[j, [0, relations.values[j] - 1]]
        #: Of each element those whose models look at it, itself included, rising.
        self.dependents = self._dependents()

    def _dependents(self) -> list[np.ndarray]:
        users: list[set[int]] = [{j} for j in range(self.size)]
        for j in np.flatnonzero(self.relations.kind >= FEW):
            looked = self.relations.tests[j] if self.relations.kind[j] == FEW else self.relations.terms[j]
            for k in looked[(looked >= 0) & (looked < 2 * self.size)]:
                users[int(k) % self.size].add(int(j))
        return [np.array(sorted(mine)) for mine in users]

    def values(self, j: int) -> np.ndarray:
        """The values of an element of FEW."""
        return self.relations.atoms[j, : self.relations.values[j]].astype(np.float64)

    def predicted(self, obs: np.ndarray, j: int) -> np.ndarray:
        """Element j of MANY as the others of the same decision predict it, [T]: its median, given them."""
        used, weights, rest = self._sums[j][0]
        found = obs[:, used] @ weights + rest + float(self.relations.cells[j, OTHERS, CELLS // 2])
        return np.asarray(found * self.unit[j] + self.centre[j])

    def surprise(
        self, obs: np.ndarray, fresh: np.ndarray, features: np.ndarray, elements: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """Negative log-likelihoods [T, len(elements), 4], by ALONE, OTHERS, BEFORE and for being OUTSIDE, in nats up to a constant an element.

        obs [T, K] float64; fresh [T] bool; features [T, F]. BEFORE is 0 where an episode begins."""
        steps = len(obs)
        before = np.maximum(np.arange(steps) - 1, 0)
        goes_on = ~fresh
        goes_on[:1] = False
        everything = np.concatenate([obs, obs[before], features[before]], 1)
        found = np.zeros((steps, len(elements), 4))
        for place, j in enumerate(elements):
            mine, kind = found[:, place], self.relations.kind[j]
            mine[:, ALONE], mine[:, OUTSIDE] = self.alone(obs[:, j], j)
            if kind == FEW:
                self._by_trees(everything, obs[:, j], j, mine)
            elif kind == MANY:
                standard = (obs[:, j] - self.centre[j]) / self.unit[j]
                for model, target in ((OTHERS, standard), (BEFORE, standard - standard[before])):
                    used, weights, rest = self._sums[j][model - OTHERS]
                    left = target - everything[:, used] @ weights - rest
                    mine[:, model] = self._cells[j][model].of(left)
            mine[:, BEFORE] *= goes_on
        return found

    def alone(self, column: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Surprise by ALONE and for being OUTSIDE if element j is `column`, [T] each; [T, C] for as many columns."""
        kind, nothing = self.relations.kind[j], np.zeros(column.shape)
        if kind == CONSTANT:
            return 2 * np.log1p(np.abs(column - self.centre[j]) / (1e-3 * self.unit[j])), nothing
        if kind == FEW:
            nearest, none, away = self._nearest(column, j)
            shares = self.relations.shares[j]
            far = _outside(np.where(none, 20 + 2 * np.log1p(away), 0.0), away > 0.5)
            return np.where(none, shares.max(), shares[nearest]) / STEP, far
        if kind == MANY:
            away = np.maximum(self.least[j] - column, column - self.most[j]) / (self.most[j] - self.least[j])
            far = _outside(np.where(away > 0.1, 4 + 2 * np.log1p(8 * np.maximum(away, 0)), 0.0), away > 1)
            return self._cells[j][0].of((column - self.centre[j]) / self.unit[j]), far
        return nothing, nothing

    def _nearest(self, column: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of an element of FEW: which of its values is nearest, which values are none of them, and how far they are, in gaps."""
        values = self.values(j)
        nearest = np.abs(column[..., None] - values).argmin(-1)
        away = np.abs(column - values[nearest]) / np.diff(values).min()
        return nearest, away > 1e-4, away

    def _by_trees(self, everything: np.ndarray, column: np.ndarray, j: int, mine: np.ndarray) -> None:
        """Surprise by OTHERS and BEFORE of an element of FEW. A value that was never seen surprises as the rarest does."""
        nearest, none, _ = self._nearest(column, j)
        every = np.arange(len(column))
        for model in (OTHERS, BEFORE):
            tests, thresholds = self.relations.tests[j, model - OTHERS], self.relations.thresholds[j, model - OTHERS]
            node = np.zeros(len(column), np.int64)
            for _ in range(DEPTH):
                test = tests[node]
                right = (everything[every, np.maximum(test, 0)] > thresholds[node]) & (test >= 0)
                node = 2 * node + 1 + right
            leaf = self.relations.leaves[j, model - OTHERS, node - NODES]
            mine[:, model] = np.where(none, leaf.max(1), leaf[every, nearest]) / STEP

    def _sum(self, j: int, model: int) -> tuple[np.ndarray, np.ndarray, float]:
        """What a sum of an element of MANY adds up, as it is observed: which, their weights, and what is left."""
        terms = self.relations.terms[j, model]
        used = terms[terms >= 0].astype(np.int64)
        observed = used < 2 * self.size
        own = used[observed] % self.size
        weights, rest = self.relations.weights[j, model, : len(used)].astype(np.float64), 0.0
        weights[observed] /= self.unit[own]
        rest -= float(weights[observed] @ self.centre[own])
        return used, weights, rest


def _outside(cost: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The first value that lies far outside costs more: a single one cannot be. Both [T] or [T, C]."""
    first = far & (np.cumsum(far, 0) == 1)
    return cost + FIRST_FAR / OUTSIDE_WEIGHT * first
