"""The evidence, tested: copies of a real bundle that are wrong in one thing each, and the check that says so.

A wrong copy has its digests and manifests made anew, so that only its meaning is wrong. Golden traces stay what
torch recorded, but where the mutation is that they do not. A running team is made wrong frame by frame.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agentmixer.contract.results import Check, Report, judged
from agentmixer.export.graph_step import graph_step
from agentmixer.host.lock_step import Host
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.golden import parse
from agentmixer.train.run import Run
from agentmixer.validate.bundle_checks import Context, judge_bundle, prepare
from agentmixer.validate.draft import DoesNotApply, Draft
from agentmixer.validate.moments import PATIENCE_S
from agentmixer.validate.mutation_check import MutationCheck, mutation_check, not_applicable
from agentmixer.validate.wrong_bundles import MUTATIONS, Mutation
from agentmixer.validate.wrong_teams import check_parity, tampered

#: Observations beside the golden ones on which a mutant must part from the original to be one.
PROBES = 256


class MutationsReport(Report):
    """Every mutation, and as a control the same checks on a re-made copy with nothing wrong."""

    @property
    def mutations(self) -> list[MutationCheck]:
        """The checks without the control."""
        return [check for check in self.checks if isinstance(check, MutationCheck)]


def _same(draft: Draft) -> bool:
    """Whether all graphs compute what they did, on golden observations and on noise."""
    generator = np.random.default_rng(0)
    for name, files in draft.bundle.agents.items():
        golden = parse(files.golden, files.manifest)
        wild = generator.normal(0, 10, (PROBES, golden.obs.shape[1])).astype(np.float32)
        masks = generator.random((PROBES, golden.policy.shape[1])) < 0.5
        masks[:, 0] |= ~masks.any(1)
        states = generator.normal(0, 0.5, (PROBES, golden.state_out.shape[1])).astype(np.float32)
        noise = generator.gumbel(size=(PROBES, files.manifest.noise)).astype(np.float32)
        old, new = graph_step(files.model), graph_step(draft.models[name].SerializeToString())
        played = golden.obs, golden.action_mask, golden.state_out, golden.noise
        for given in (played, (wild, masks, states, noise)):
            try:
                if not all(np.array_equal(a, b) for a, b in zip(old(*given), new(*given), strict=True)):
                    return False
            except Exception:  # onnxruntime's exceptions have no common base below Exception
                return False  # it cannot even be run on the original's inputs
    return True


def mutate(mutation: Mutation, context: Context) -> MutationCheck:
    """Make one wrong copy in a temporary folder and hold it against every check."""
    draft = Draft(context.bundle)
    try:
        mutation.make(draft)
        if mutation.comparable and _same(draft):
            raise DoesNotApply(f"the graph computes the same on all golden steps and {PROBES} others")
    except DoesNotApply as reason:
        return not_applicable(mutation.name, mutation.what, str(reason))
    with tempfile.TemporaryDirectory(prefix="agentmixer-") as scratch:
        path = Path(scratch) / "bundle"
        draft.write(path)
        return mutation_check(mutation.name, mutation.what, judge_bundle(path, context))


def mutations(
    bundle: Bundle, run: Run | None = None, progress: Callable[[str], None] = lambda _: None
) -> MutationsReport:
    """Make every wrong copy of `bundle` and see which check objects first.

    Calls `progress` with what it does, and how far it is. Raises AgentMixerError if the run it came from is gone."""
    context = prepare(bundle, run, progress)
    checks: list[Check] = []
    for number, mutation in enumerate(MUTATIONS, 1):
        progress(f"wrong copy {number} of {len(MUTATIONS)}: {mutation.name}")
        checks.append(mutate(mutation, context))
    checks += tampered(context, progress)
    progress("a copy with nothing wrong")
    with tempfile.TemporaryDirectory(prefix="agentmixer-") as scratch:
        path = Path(scratch) / "bundle"
        Draft(bundle).write(path)
        caught = judge_bundle(path, context)
    with Host(bundle, PATIENCE_S) as host:
        caught = caught or check_parity(host, context)
    untouched = Check(
        name="nothing wrong",
        status=judged(not caught),
        sentence=f"{caught[0]}: {caught[1]}" if caught else "no check objected",
        control=True,
    )
    return MutationsReport(bundle=str(bundle.path), checks=(untouched, *checks))
