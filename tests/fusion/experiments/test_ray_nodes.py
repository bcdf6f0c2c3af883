"""A machine of a Ray cluster is lost in the middle of a comparison: what it was training is trained on the others."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_va.data import open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.experiments.compare import compare
from sage_va.tests.synthetic import make_cache, tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(ray_token: Path) -> Iterator[Any]:
    """Two machines of one core each, as Ray plays them on this one; the second can be lost."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_token))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def test_a_node_is_lost(cluster: Any, tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=2.4)
    small = {"dim": 4, "tcn_blocks": 0, "layers": 0, "variant": "concat"}
    config = check_config(tiny(train={"epochs": 60, "patience": 60}, model=small), "test")
    out = tmp_path / "out"

    def lose() -> None:
        while len(list(out.rglob("metrics.jsonl"))) < 2:  # both machines are at work
            time.sleep(0.1)
        cluster.remove_node(cluster.second, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    settings: dict[str, Any] = {"engine": "ray", "ray_address": cluster.address, "device": "cpu", "jobs": 2}
    result = compare(open_store(cache), labels, out, config, ["concat", "late"], num_seeds=1, folds=3, **settings)
    thread.join(300)
    assert not thread.is_alive(), "no machine was lost"
    assert (result.num_trained, result.failures, result.interrupted) == (6, [], False)
    assert os.path.exists(out / "table.csv")
