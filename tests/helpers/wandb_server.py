"""A W&B server on this machine that answers what a Report needs: who asks, the projects, the Reports."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY, PROJECT = "lab", "cxrdist"
INTERNAL_ID = "17"


class WandbServer:
    """``views``: the Reports by id, each as it was last written."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self.refuses = False
        """Answer with an error instead of writing a Report."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path != "/graphql":  # telemetry
                    self.send_error(404)
                    return
                request = json.loads(body)
                answer = json.dumps(server.answer(request["query"], request.get("variables") or {})).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            return self.write(values)
        if "SpecificReport" in query:
            return {"data": {"view": self.views.get(values["reportId"])}}
        if "ProjectInternalId" in query:
            return {"data": {"project": {"id": "p", "internalId": INTERNAL_ID}}}
        if "GetProjects" in query:
            project = {"id": "p", "name": PROJECT, "entityName": ENTITY, "isBenchmark": False, "user": None}
            edge = {"node": {**project, "createdAt": "2026-01-01T00:00:00Z"}, "cursor": "x"}
            return {
                "data": {"models": {"edges": [edge], "pageInfo": {"endCursor": None, "hasNextPage": False}}}
            }
        viewer = {"id": "u", "username": "u", "entity": ENTITY, "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": viewer}}

    def write(self, values: dict[str, Any]) -> dict[str, Any]:
        if self.refuses:
            return {"errors": [{"message": "permission denied"}]}
        self.writes += 1
        number = values["id"] or base64.b64encode(f"View:{len(self.views)}".encode()).decode()
        view = {
            "id": number,
            "type": values["type"],
            "name": values["name"],
            "displayName": values["displayName"],
            "description": values["description"],
            "project": {"id": "p", "name": values["projectName"], "entityName": values["entityName"]},
            "spec": values["spec"],
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
        }
        self.views[number] = view
        return {"data": {"upsertView": {"view": view, "inserted": values["id"] is None}}}

    def blocks(self, number: str) -> list[dict[str, Any]]:
        """The blocks of a Report, without the empty paragraphs around them."""
        blocks: list[dict[str, Any]] = json.loads(self.views[number]["spec"])["blocks"]
        return [block for block in blocks if block["type"] != "paragraph"]
