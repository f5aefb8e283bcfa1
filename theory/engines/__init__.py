r"""Posterior means over a finite set of candidates: the sum every closed-form score is made of, behind one door.

A query ``q`` (what the model sees of the noisy image) is compared with keys ``k_j`` (clean
candidates, weight ``w_j``) that carry values ``v_j``:

.. math:: \ell_j = -\frac{\|q - \alpha_t k_j\|^2}{2 \sigma_t^2} + \log w_j, \qquad
          E[v | q] = \frac{\sum_j e^{\ell_j} v_j}{\sum_j e^{\ell_j}} .

The sum is a monoid (`state`), apart from how it is summed. A machine states what meets what (`theory.meetings`), and every engine
derives from that what it needs: `windows` a table of shifts, `listed` queries and keys, `fourier` a correlation, `pruned` trees.

A new engine is one folder with a subclass of `Engine` and one entry in `ENGINES` (`choice`).
"""

from theory.engines.choice import ENGINES, NAMES, Choice, check_engine, choose
from theory.engines.engine import Case, Engine, like
from theory.engines.pruned.engine import Pruned
from theory.engines.state import State
from theory.engines.training import Training

__all__ = ["ENGINES", "NAMES", "Case", "Choice", "Engine", "Pruned", "State", "Training", "check_engine", "choose", "like"]
