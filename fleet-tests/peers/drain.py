"""Times one drain of a peer's queue and prints it as one line of JSON. `run` starts it; it needs `psql`.

The clock starts when every worker process is up, connected and waiting for its word to go, which all get at once.
It stops when the peer's own tables hold no unfinished job. They are asked only after the handlers have counted all
jobs, so that asking does not slow the drain itself.
"""

import json
import os
import subprocess
import sys
import threading
import time

POLL_INTERVAL_S = 0.005
STALL_DEADLINE_S = 120


class Worker:
    """One worker process, which says `ready`, is told to go, and then says how many jobs it has handled."""

    def __init__(self, driver, url, changed):
        self.process = subprocess.Popen(
            [*driver, "work", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.changed = changed
        self.handled = 0
        self.ended = False

    def wait_until_ready(self):
        for line in self.process.stdout:
            if line.strip() == "ready":
                threading.Thread(target=self.listen, daemon=True).start()
                return
        sys.exit("a worker ended before it was ready")

    def listen(self):
        for line in self.process.stdout:
            if line.startswith("handled "):
                with self.changed:
                    self.handled = int(line.split()[1])
                    self.changed.notify()
        with self.changed:
            self.ended = True
            self.changed.notify()

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def cpu_s(self):
        """User and system seconds so far, or None where there is no /proc."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Database:
    """One `psql` that is kept open, so that asking takes no connection."""

    def __init__(self, url):
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, query):
        self.process.stdin.write(f"{query};\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        return answer or sys.exit(f"psql gave no answer to: {query}")


def main(peer, url, jobs, processes, driver):
    about = json.loads(subprocess.check_output([*driver, "about"]))
    unfinished = about["unfinished"].replace(":jobs", str(jobs))
    quietly = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([*driver, "schema", url], **quietly)
    subprocess.run([*driver, "fill", url, str(jobs)], **quietly)
    subprocess.run(["psql", "-X", "-q", "-c", "vacuum analyze", url], **quietly)
    database = Database(url)
    if database.ask(f"select ({unfinished})") != "t":
        sys.exit("the queue is empty before the drain")

    changed = threading.Condition()
    workers = [Worker(driver, url, changed) for _ in range(processes)]
    try:
        for worker in workers:
            worker.wait_until_ready()
        cpu_before = [worker.cpu_s() for worker in workers]
        start = time.monotonic()
        for worker in workers:
            worker.go()
        wait_until_handled(workers, jobs, changed)
        wait_until_finished(database, unfinished)
        seconds = time.monotonic() - start
        cpu_after = [worker.cpu_s() for worker in workers]
    finally:
        for worker in workers:
            worker.stop()

    cpu_s = None if None in cpu_before + cpu_after else round(sum(cpu_after) - sum(cpu_before), 2)
    result = {
        "peer": peer,
        "version": about["version"],
        "case": "drain",
        "jobs": jobs,
        "processes": processes,
        "seconds": round(seconds, 3),
        "jobs_per_s": round(jobs / seconds),
        "cpu_s": cpu_s,
    }
    print(json.dumps(result))


def wait_until_handled(workers, jobs, changed):
    """Waits for the handlers' counts to reach all jobs, and gives up when they stop moving."""
    with changed:
        while (handled := sum(worker.handled for worker in workers)) < jobs:
            if any(worker.ended for worker in workers):
                sys.exit(f"a worker ended after {handled} of {jobs} jobs")
            if not changed.wait(STALL_DEADLINE_S):
                sys.exit(f"no job in {STALL_DEADLINE_S} s after {handled} of {jobs}")


def wait_until_finished(database, unfinished):
    deadline = time.monotonic() + STALL_DEADLINE_S
    while database.ask(f"select ({unfinished})") == "t":
        if time.monotonic() > deadline:
            sys.exit(f"all jobs are handled, but some are not finished after {STALL_DEADLINE_S} s")
        time.sleep(POLL_INTERVAL_S)


if __name__ == "__main__":
    peer, url, jobs, processes, *driver = sys.argv[1:]
    main(peer, url, int(jobs), int(processes), driver)
