"""Compression of one delta: chunked top-k, quantisation, position coding, residual.

A payload decodes to exact integers, the same at every site. What is not sent stays in the residual. Every delta has one
spelling. Hostile bytes raise `WireError` within a memory bound that follows from the layout. Pure numpy: no compiler,
no threads, no clock, no randomness.
"""

from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import Layout, TensorSpec, initial_trunk
from kmel_p2p.delta.sparse import SparseDelta

__all__ = ["CodecParameters", "DeltaCodec", "Layout", "SparseDelta", "TensorSpec", "initial_trunk"]
