"""Play: a local page with a model alive behind it.

server.py   starts it, opens the browser, ends it          app.py      the routes, and who may use them
studio.py   the model and the worker that runs it           answers.py  functions as JSON over HTTP
write.py, backward.py, train.py, kernel.py, tokens.py       one file a view; its page is static/NAME.js
"""
