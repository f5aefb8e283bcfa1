"""Array types by shape, checked at run time under test only (jaxtyping + beartype).

``B`` batch, ``N`` training images, ``C H W`` channels and pixels; a group ``G`` of queries shares
its keys: ``Q`` queries against ``K`` keys of dimension ``d``, carrying values of dimension ``v``.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from theory.centred import Centred

Images = Float[Tensor, "B C H W"]
TrainingImages = Float[Tensor, "N C H W"] | Centred
Weights = Float[Tensor, " N"]
Labels = Int[Tensor, " N"]
Times = Float[Tensor, "..."] | float | int  # shape () or (B,)
BatchLabels = Int[Tensor, "..."] | Sequence[int] | int  # shape () or (B,)

Queries = Float[Tensor, "G Q d"]
PerQuery = Float[Tensor, "G Q"]
Coefficients = Float[Tensor, " Q"]
KeyRows = Float[Tensor, "G K d"]
ValueRows = Float[Tensor, "G K v"]
LogWeights = Float[Tensor, "G K"]
Means = Float[Tensor, "G Q v"]
