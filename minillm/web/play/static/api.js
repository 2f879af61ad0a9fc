// The server: post for one answer, stream for many. The address of the page has the token in it.
export class ServerError extends Error {}

export const GONE = "The server has stopped. Start it again with: minillm play";

async function send(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", body: JSON.stringify(body ?? {}), headers: { "content-type": "application/json" }, signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(GONE);
  }
  if (!response.ok) {
    const text = await response.text();
    let message = `the server answered ${response.status}: ${text.slice(0, 200)}`;
    if (response.status === 400) message = JSON.parse(text).error;
    throw new ServerError(message);
  }
  return response;
}

// post("write/step", {...}) -> the object that the server answers.
export async function post(path, body, signal) {
  return (await send(path, body, signal)).json();
}

// stream("train/watch", {...}, (event) => ...) calls back for each line; ends when the server ends it or signal aborts.
export async function stream(path, body, onEvent, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(GONE);
    }
    if (part.done) return;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error !== undefined) throw new ServerError(event.error);
      onEvent(event);
    }
  }
}
