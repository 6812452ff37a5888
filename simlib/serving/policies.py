"""The policies of all dicts as compiled choices: a policy is chosen by its place in its dict."""

from __future__ import annotations

from simlib.compiling import callable_from_compiled, choice
from simlib.latency.formulas import FORMULAS, HELPERS
from simlib.policies.batching import BATCH_POLICIES
from simlib.policies.disciplines import DISCIPLINES
from simlib.policies.routers import ROUTERS
from simlib.serving.deployment import exposed_bytes

callable_from_compiled((*HELPERS, exposed_bytes))

choose_replica = choice(router.choose for router in ROUTERS.values())
queue_key = choice(discipline.key for discipline in DISCIPLINES.values())
chunk_tokens = choice(policy.chunk for policy in BATCH_POLICIES.values())
chunk_work = choice(formula.chunk for formula in FORMULAS.values())
prefill_s = choice(formula.iteration for formula in FORMULAS.values())
decode_line = choice(formula.decode for formula in FORMULAS.values())
