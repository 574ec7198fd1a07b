"""The abstract types of flowmap. Every class here is abstract or final.

Conventions, everywhere outside a backbone: times t, r in [0, 1] with 1 = noise, `[B]` or `[B, F]`, float32 or
wider; samples x `[B, F, ...]`, frames second (images and points have F = 1).
"""

from flowmap.interfaces.backbones import Backbone, SamplingGrid
from flowmap.interfaces.chunks import Chunking, LaidOutAs, OneChunk, Window
from flowmap.interfaces.metrics import Evidence, Features, Metric, References
from flowmap.interfaces.networks import Cond, FlowMap, NoCond, Role, SeveralNetworks, Velocity, as_flow_map
from flowmap.interfaces.samples import Archive, Batch, Data, EncodedText, Samples
from flowmap.interfaces.sampling import Sampler
from flowmap.interfaces.sequence import Shared, SharesTokens, TokenGroup, share_tokens
from flowmap.interfaces.training import Loss, Objective, Scene, StudentObjective, Taken, Turn, World, always, every

__all__ = [
    "Archive",
    "Backbone",
    "Batch",
    "Chunking",
    "Cond",
    "Data",
    "EncodedText",
    "Evidence",
    "Features",
    "FlowMap",
    "LaidOutAs",
    "Loss",
    "Metric",
    "NoCond",
    "Objective",
    "OneChunk",
    "References",
    "Role",
    "Sampler",
    "Samples",
    "SamplingGrid",
    "Scene",
    "SeveralNetworks",
    "Shared",
    "SharesTokens",
    "StudentObjective",
    "Taken",
    "TokenGroup",
    "Turn",
    "Velocity",
    "Window",
    "World",
    "always",
    "as_flow_map",
    "every",
    "share_tokens",
]
