// A browser does not start workers for a page that was opened from disk (file://). The search, which is a worker of the
// site, then runs in a hidden frame instead. tools/site.py puts this file into the pages.
if (location.protocol === "file:") {
  // As between a page and its worker: the receiver gets a copy, and not before the sender has gone on.
  const deliver = (data, receive) => {
    const copy = structuredClone(data);
    setTimeout(() => receive(new MessageEvent("message", { data: copy })));
  };

  window.Worker = class {
    onmessage = null;
    onerror = null;
    #frame = document.createElement("iframe");
    #ready;

    constructor(url) {
      this.#ready = new Promise((ready) => {
        this.#frame.hidden = true;
        this.#frame.onload = ready;
        document.body.append(this.#frame);
      }).then(() => this.#load(url));
      this.#ready.catch(() => this.onerror?.(new ErrorEvent("error", { message: `${url} cannot be loaded` })));
    }

    #load(url) {
      const inside = this.#frame.contentWindow;
      inside.postMessage = (data) => deliver(data, (event) => this.onmessage?.(event));
      return new Promise((loaded, failed) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src: url, onload: loaded, onerror: failed });
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      const copy = structuredClone(data);
      this.#ready.then(
        () => deliver(copy, (event) => this.#frame.contentWindow?.dispatchEvent(event)),
        () => {}, // reported by `onerror`
      );
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
