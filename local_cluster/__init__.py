"""A complete upstream Kubernetes on one machine, without a container engine.

from local_cluster import LocalCluster

cluster = LocalCluster("demo")
cluster.up(nodes=3)
...
cluster.down()
"""

from local_cluster.cluster import LocalCluster
from local_cluster.errors import LocalClusterError

__all__ = ["LocalCluster", "LocalClusterError"]
