"""Answer over HTTP with an exported model: python serve.py MODEL_FOLDER [PORT].

curl --data-binary @new/1.jpg http://127.0.0.1:8000/
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np

sys.path.insert(0, sys.argv[1])
import predict

FACTS, MAX_BYTES = predict.FACTS, 20_000_000


class Handler(BaseHTTPRequestHandler):
    """Classifies the image file in the body of a request."""

    def do_POST(self):
        """Answer with the class and the probabilities, as JSON."""
        size = int(self.headers.get("Content-Length", 0))
        if not 0 < size <= MAX_BYTES:
            return self.answer(413, {"error": f"send a file of at most {MAX_BYTES:,} bytes"})
        content = self.rfile.read(size)
        try:
            pixels = predict.to_pixels(
                content, FACTS["image_size"], FACTS["resize"], FACTS["mask_center"]
            )
        except predict.ImageError as error:
            return self.answer(400, {"error": str(error)})
        row = predict.probabilities(pixels[None].astype(np.float32))[0]
        shares = dict(zip(FACTS["classes"], map(float, row), strict=True))
        return self.answer(200, {"class": predict.predicted(row[None])[0], "p": shares})

    def answer(self, code, found):
        """Send a table as JSON."""
        body = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


with HTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8000), Handler) as server:
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
