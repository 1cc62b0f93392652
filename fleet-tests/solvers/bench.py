"""Our solver beside PyVRP, OR-tools and VROOM: the same files, the same limit, one core each, one run after the other.

Costs are counted here, from the routes alone, for all of them alike; see the README. `cargo xtask bench routes` calls this.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BEST_KNOWN = {
    "C101": 827.3, "R101": 1637.7, "RC208": 776.1, "C1_2_1": 2698.6, "R1_4_1": 10305.8,
    "X-n101-k25": 27591, "X-n200-k36": 58578, "X-n502-k39": 69226, "PR11A": 6655.548,
}


class Problem:
    """What a file says, in whole numbers, and how many of them make one of the file's."""

    def __init__(self, path):
        text = Path(path).read_text()
        self.name = Path(path).stem
        self.seconds_max = None
        if "NODE_COORD_SECTION" in text:
            self.read_vrplib(text)
        else:
            self.read_solomon(text)
        n = len(self.xy)
        self.matrix = [[self.distance(self.xy[a], self.xy[b]) for b in range(n)] for a in range(n)]

    def distance(self, a, b):
        square = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
        return math.isqrt(square) if self.is_truncated else (math.isqrt(4 * square) + 1) // 2

    def read_solomon(self, text):
        self.scale, self.is_truncated, self.is_timed, self.depots = 10, True, True, 1
        rows = [[float(word) for word in line.split()] for line in text.splitlines() if re.fullmatch(r"[\s\d.]+", line)]
        count, capacity = next(row for row in rows if len(row) == 2)
        rows = [row for row in rows if len(row) == 7]
        self.xy = [(round(row[1] * 10), round(row[2] * 10)) for row in rows]
        self.demand = [round(row[3]) for row in rows]
        self.window = [(round(row[4] * 10), round(row[5] * 10)) for row in rows]
        self.service = [round(row[6] * 10) for row in rows]
        self.vehicles, self.capacity = [0] * min(int(count), len(rows) - 1), int(capacity)

    def read_vrplib(self, text):
        sections, header, current = {}, {}, None
        for line in map(str.strip, text.splitlines()):
            if line.endswith("_SECTION"):
                current = sections.setdefault(line, [])
            elif ":" in line:
                key, value = line.split(":", 1)
                header[key.strip()] = value.strip()
            elif line and line != "EOF" and current is not None:
                current.append([float(word) for word in line.split()])
        self.depots = max(1, sum(row[0] > 0 for row in sections["DEPOT_SECTION"]))
        windows = sections.get("TIME_WINDOW_SECTION", [])
        limit = header.get("VEHICLES_MAX_DURATION")
        self.is_timed = bool(windows) or limit is not None
        many = self.depots > 1 or limit is not None
        self.scale = 1000 if many else 10 if windows else 1
        self.is_truncated = self.scale == 10
        n = len(sections["NODE_COORD_SECTION"])
        self.xy = [(round(x * self.scale), round(y * self.scale)) for _, x, y in sections["NODE_COORD_SECTION"]]
        self.demand, self.service, self.window = [0] * n, [0] * n, [(0, 10**8)] * n
        if "SERVICE_TIME" in header:
            self.service = [0 if i < self.depots else round(float(header["SERVICE_TIME"]) * self.scale) for i in range(n)]
        for row, demand in sections["DEMAND_SECTION"]:
            self.demand[int(row) - 1] = round(demand)
        for row, service in sections.get("SERVICE_TIME_SECTION", []):
            self.service[int(row) - 1] = round(service * self.scale)
        for row, start, end in windows:
            self.window[int(row) - 1] = (round(start * self.scale), round(end * self.scale))
        self.capacity = int(header["CAPACITY"])
        self.seconds_max = round(float(limit) * self.scale) if limit else None
        self.vehicles = [int(row[1]) - 1 for row in sections.get("VEHICLES_DEPOT_SECTION", [])]
        if not self.vehicles:
            count = int(header.get("VEHICLES", sum(self.demand) // self.capacity * 5 // 4 + 10))
            self.vehicles = [0] * min(count, n - self.depots)

    def cost(self, routes):
        """What (vehicle, clients) cost; raises where they break a rule."""
        seen, used, total = set(), set(), 0
        for vehicle, clients in routes:
            if not clients:
                continue
            assert vehicle not in used, f"vehicle {vehicle} has two routes"
            used.add(vehicle)
            depot = self.vehicles[vehicle]
            assert sum(self.demand[c] for c in clients) <= self.capacity, "overloaded"
            start, end = self.window[depot]
            at, early, late, seconds = depot, start, end, 0
            for place in [*clients, depot]:
                way = self.matrix[at][place]
                total += way
                if self.is_timed:
                    # The latest start without waiting, as far as windows let it be put off.
                    opens, closes = self.window[place]
                    there = early + seconds + way
                    assert there <= closes, f"late at {place}"
                    waits = max(0, opens - (late + seconds + way))
                    shift = seconds + way
                    early, late = max(early, opens - shift) - waits, min(late, closes - shift)
                    late = max(late, early)
                    seconds = shift + waits + (self.service[place] if place >= self.depots else 0)
                if place != depot:
                    assert place >= self.depots and place not in seen, f"{place} is no client, or twice"
                    seen.add(place)
                at = place
            assert self.seconds_max is None or seconds <= self.seconds_max, "out for too long"
        missing = len(self.xy) - self.depots - len(seen)
        assert missing == 0, f"{missing} clients are on no route"
        return total


def ours(problem, path, args):
    program = args.orderfleet
    done = subprocess.run([program, "routes", "solve", path, "--seconds", str(args.seconds), "--seed", str(args.seed)],
                          capture_output=True, text=True)
    routes = []
    for number, clients in re.findall(r"^Route #(\d+):(.*)$", done.stdout, re.M):
        routes.append((int(number) - 1, [int(c) for c in clients.split()]))
    return routes


def pyvrp(problem, path, args):
    from pyvrp import Model
    from pyvrp.stop import MaxRuntime

    model = Model()
    places = [model.add_location(x, y) for x, y in problem.xy]
    depots = [model.add_depot(place) for place in places[: problem.depots]]
    for i in range(problem.depots, len(places)):
        start, end = problem.window[i]
        times = dict(service_duration=problem.service[i], tw_early=start, tw_late=end) if problem.is_timed else {}
        model.add_client(places[i], delivery=[problem.demand[i]], **times)
    for depot in range(problem.depots):
        count = problem.vehicles.count(depot)
        times = {}
        if problem.is_timed:
            times = dict(tw_early=problem.window[depot][0], tw_late=problem.window[depot][1])
        if problem.seconds_max:
            times["shift_duration"] = problem.seconds_max
        model.add_vehicle_type(count, capacity=[problem.capacity], start_depot=depots[depot], end_depot=depots[depot], **times)
    for a, one in enumerate(places):
        for b, other in enumerate(places):
            way = problem.matrix[a][b]
            model.add_edge(one, other, distance=way, duration=way if problem.is_timed else 0)
    found = model.solve(stop=MaxRuntime(args.seconds), seed=args.seed, display=False).best
    free = {depot: [v for v, of in enumerate(problem.vehicles) if of == depot] for depot in range(problem.depots)}
    assert found.is_feasible(), "no valid plan"
    clients = lambda route: [activity.idx + problem.depots for activity in route if activity.is_client()]
    return [(free[route.start_depot()].pop(0), clients(route)) for route in found.routes()]


def ortools(problem, path, args):
    from ortools.constraint_solver import pywrapcp, routing_enums_pb2 as enums

    manager = pywrapcp.RoutingIndexManager(len(problem.xy), len(problem.vehicles), problem.vehicles, problem.vehicles)
    routing = pywrapcp.RoutingModel(manager)
    ways = routing.RegisterTransitMatrix(problem.matrix)
    routing.SetArcCostEvaluatorOfAllVehicles(ways)
    loads = routing.RegisterUnaryTransitVector(problem.demand)
    routing.AddDimension(loads, 0, problem.capacity, True, "load")
    if problem.is_timed:
        takes = [[way + problem.service[a] for way in row] for a, row in enumerate(problem.matrix)]
        horizon = max(end for _, end in problem.window)
        routing.AddDimension(routing.RegisterTransitMatrix(takes), horizon, horizon, False, "time")
        clock = routing.GetDimensionOrDie("time")
        for place in range(problem.depots, len(problem.xy)):
            clock.CumulVar(manager.NodeToIndex(place)).SetRange(*problem.window[place])
        for vehicle, depot in enumerate(problem.vehicles):
            clock.CumulVar(routing.Start(vehicle)).SetRange(*problem.window[depot])
            clock.CumulVar(routing.End(vehicle)).SetRange(*problem.window[depot])
            if problem.seconds_max:
                clock.SetSpanUpperBoundForVehicle(problem.seconds_max, vehicle)
    search = pywrapcp.DefaultRoutingSearchParameters()
    first = enums.FirstSolutionStrategy
    search.first_solution_strategy = first.PARALLEL_CHEAPEST_INSERTION if problem.is_timed else first.SAVINGS
    search.local_search_metaheuristic = enums.LocalSearchMetaheuristic.GUIDED_LOCAL_SEARCH
    search.time_limit.FromMilliseconds(round(args.seconds * 1000))
    found = routing.SolveWithParameters(search)
    assert found, "no valid plan"
    routes = []
    for vehicle in range(len(problem.vehicles)):
        index, clients = found.Value(routing.NextVar(routing.Start(vehicle))), []
        while not routing.IsEnd(index):
            clients.append(manager.IndexToNode(index))
            index = found.Value(routing.NextVar(index))
        routes.append((vehicle, clients))
    return routes


def vroom(problem, path, args):
    import datetime

    import numpy
    from vroom import Amount, Input, Job, TimeWindow, Vehicle

    given = Input()
    given.set_durations_matrix("car", numpy.array(problem.matrix, dtype=numpy.uint32))
    for vehicle, depot in enumerate(problem.vehicles):
        limits = dict(time_window=TimeWindow(*problem.window[depot])) if problem.is_timed else {}
        assert problem.seconds_max is None, "no limit of the time out that counts waiting"
        given.add_vehicle(Vehicle(vehicle, start=depot, end=depot, capacity=[problem.capacity], profile="car", **limits))
    for place in range(problem.depots, len(problem.xy)):
        limits = dict(time_windows=[TimeWindow(*problem.window[place])]) if problem.is_timed else {}
        given.add_job(Job(place, location=place, delivery=Amount([problem.demand[place]]), default_service=problem.service[place], **limits))
    found = given.solve(exploration_level=5, nb_threads=1, timeout=datetime.timedelta(seconds=args.seconds))
    routes = {}
    for step in found.routes.to_dict("records"):
        if step["type"] == "job":
            routes.setdefault(step["vehicle_id"], []).append(int(step["id"]))
    return sorted(routes.items())


SOLVERS = {"ours": ours, "pyvrp": pyvrp, "ortools": ortools, "vroom": vroom}


def alone(args):
    """One solver on one file, in this process; prints what it found."""
    problem = Problem(args.files[0])
    started = time.monotonic()
    try:
        routes = SOLVERS[args.alone](problem, args.files[0], args)
        took = time.monotonic() - started
        print(json.dumps(dict(cost=problem.cost(routes) / problem.scale, seconds=took, routes=sum(bool(c) for _, c in routes))))
    except Exception as error:  # What one solver cannot do is a cell of the table, not the end of it.
        print(json.dumps(dict(error=str(error)[:200] or type(error).__name__, seconds=time.monotonic() - started)))


def main():
    parser = argparse.ArgumentParser(prog="cargo xtask bench routes", description=__doc__)
    parser.add_argument("files", nargs="*", help="problems; without any those of ../shared/data/vrp")
    parser.add_argument("--seconds", type=float, default=2, help="limit of each run (default: 2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--solvers", default=",".join(SOLVERS), help="which, with commas (default: all)")
    parser.add_argument("--cpu", default="0", help="the core each is pinned to (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object, last")
    parser.add_argument("--orderfleet", default=str(HERE / "../../target/release/orderfleet"), help=argparse.SUPPRESS)
    parser.add_argument("--alone", choices=SOLVERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        return alone(args)
    data = HERE / "../../../shared/data/vrp"
    files = args.files or [str(f) for f in sorted(data.glob("*")) if f.suffix in (".txt", ".vrp")]
    if not files:
        sys.exit(f"no problems: name files, or put some into {data}")
    installed = HERE / ".installed/bin/python"
    python = str(installed) if installed.exists() else sys.executable
    wanted = args.solvers.split(",")
    rows = []
    print("| instance | " + " | ".join(wanted) + " |\n|---|" + "---|" * len(wanted), flush=True)
    for path in files:
        cells, name = [], Path(path).stem
        for solver in wanted:
            run = ["taskset", "-c", args.cpu, python, __file__, "--alone", solver, "--seconds", str(args.seconds), "--seed", str(args.seed),
                   "--orderfleet", args.orderfleet, path]
            done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            lines = done.stdout.strip().splitlines()
            row = dict(instance=name, solver=solver, limit=args.seconds, seed=args.seed)
            row |= json.loads(lines[-1]) if lines else dict(error=done.stderr.strip()[-200:], seconds=0)
            if name in BEST_KNOWN and "cost" in row:
                row["gap_percent"] = round((row["cost"] / BEST_KNOWN[name] - 1) * 100, 3)
            rows.append(row)
            gap = f" / {row['gap_percent']:.2f} %" if "gap_percent" in row else ""
            cells.append(f"{row['cost']:g}{gap} / {row['seconds']:.1f} s" if "cost" in row else row["error"])
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for solver in wanted:
        gaps = [row["gap_percent"] for row in rows if row["solver"] == solver and "gap_percent" in row]
        if gaps:
            print(f"{solver}: mean gap {sum(gaps) / len(gaps):.2f} % over {len(gaps)}, largest {max(gaps):.2f} %")
    if args.json:
        print(json.dumps(dict(rows=rows)))


if __name__ == "__main__":
    main()
