"""What the tests of the page share."""

import threading
from contextlib import contextmanager


@contextmanager
def served(studio, token="token"):
    """Serves a studio in a thread: the address of its page."""
    from minillm.web.play.app import create_app
    from minillm.web.play.server import listen, uvicorn_server

    listening = listen(0)
    port = listening.getsockname()[1]
    server = uvicorn_server(create_app(studio, token, port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/{token}/"
    finally:
        server.should_exit = True
        thread.join()
