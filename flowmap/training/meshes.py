"""How the processes of a run stand to one another: meshes of devices, one a process.

Whatever the dimensions of a mesh are called, its last one runs over neighbours: processes of one node, which talk
fastest. All processes must make the same meshes in the same order.
"""

from __future__ import annotations

from functools import cache

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def mesh(device: str, **sizes: int) -> DeviceMesh:
    """All processes, in the order of their indices, as a grid of the named `sizes`; each one's device is a `device`."""
    return _mesh(device, tuple(sizes.items()))


def sharding(device: str, number: int, within: int) -> DeviceMesh:
    """The mesh over which networks are sharded: every `within` of the `number` processes share a whole copy.

    With several copies it is that of hybrid sharding: `replicate` over the copies, `shard` within each.
    """
    if within == number:
        return mesh(device, shard=number)
    return mesh(device, replicate=number // within, shard=within)


@cache
def _mesh(device: str, sizes: tuple[tuple[str, int], ...]) -> DeviceMesh:
    return init_device_mesh(device, tuple(size for _, size in sizes), mesh_dim_names=tuple(name for name, _ in sizes))
