"""The faults that scripts/together makes at random."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from contextlib import suppress

import redis
from together_parts import Mount, Network, Redis, wait_for
from together_work import say


class Faults:
    def __init__(
        self, network: Network, mounts: list[Mount], stores: list[Redis], chance: random.Random
    ) -> None:
        self._network, self._mounts = network, mounts
        self._stores, self._chance = stores, chance
        self.did: Counter[str] = Counter()

    def one(self) -> None:
        names = [name for name in dir(self) if name.startswith("fault_")]
        name = self._chance.choice(names)
        say(name.removeprefix("fault_").replace("_", " "))
        self.did[name] += 1
        getattr(self, name)()

    def _primary(self) -> Redis:
        wait_for(lambda: any(each.is_primary() for each in self._stores), 60)
        return next(each for each in self._stores if each.is_primary())

    def _replica(self) -> Redis | None:
        primary = self._primary()
        return next((each for each in self._stores if each is not primary), None)

    def fault_kill_mount(self) -> None:
        mount = self._chance.choice(self._mounts)
        mount.kill()
        time.sleep(self._chance.uniform(0, 5))
        mount.again()

    def fault_stop_mount(self) -> None:
        mount = self._chance.choice(self._mounts)
        mount.send(signal.SIGSTOP)
        time.sleep(self._chance.uniform(1, 12))
        mount.send(signal.SIGCONT)

    def fault_cut_logs_behind_a_stopped_mount(self) -> None:
        mount = self._chance.choice(self._mounts)
        mount.send(signal.SIGSTOP)
        time.sleep(self._chance.uniform(1, 8))
        client = self._primary().client
        for key in client.scan_iter("*:log"):
            client.xtrim(key, maxlen=0)
        mount.send(signal.SIGCONT)

    def fault_cut_a_mount_off(self) -> None:
        n = self._chance.randrange(len(self._mounts))
        self._network.cut(n, "down")
        time.sleep(self._chance.uniform(1, 12))
        self._network.cut(n, "up")

    def fault_kill_redis(self) -> None:
        store = self._primary()
        store.kill()
        time.sleep(self._chance.uniform(0, 1))  # before the sentinel takes it for dead
        store.start()

    def fault_stop_redis(self) -> None:
        store = self._primary()
        store.send(signal.SIGSTOP)
        time.sleep(self._chance.uniform(1, 10))
        store.send(signal.SIGCONT)

    def fault_promote_a_replica(self) -> None:
        store = self._primary()
        store.kill()
        wait_for(lambda: self._primary() is not store, 60)
        store.start()

    def fault_promote_a_replica_that_lagged(self) -> None:
        store, replica = self._primary(), self._replica()
        if replica is None:
            return
        with suppress(redis.RedisError):
            replica.client.execute_command("CLIENT", "KILL", "TYPE", "master")
        replica.send(signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.5, 2))
        store.kill()
        replica.send(signal.SIGCONT)
        wait_for(replica.is_primary, 60)
        store.start()

    def fault_flush(self) -> None:
        self._primary().client.flushall()

    def fault_full(self) -> None:
        client = self._primary().client
        client.config_set("maxmemory", 1)
        time.sleep(self._chance.uniform(1, 5))
        with suppress(redis.RedisError):
            client.config_set("maxmemory", 0)
