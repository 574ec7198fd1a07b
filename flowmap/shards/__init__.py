"""Samples in tar shards and other files, raw or encoded ahead of training: what data sources of any kind need of them.

A configuration is a `flowmap.shards.configs.ShardsConfig`; what it builds is a `flowmap.shards.archive.ShardArchive` of
a `flowmap.shards.kind.Kind`, which says how one raw sample becomes x. The rest is shared: tars as strangers write them,
faults, the encoded format, digests, the split, drawing. Configurations, places and tars are torch-free.
"""
