// A browser does not start workers for a page that was opened from disk (file://). The search, which is a worker of the
// site, then runs in a hidden frame instead. tools/site.py puts this file into the pages.
if (location.protocol === "file:") {
  window.Worker = class {
    onmessage = null;
    onerror = null;
    #frame = document.createElement("iframe");
    #started = new Promise((started) => {
      this.#frame.hidden = true;
      this.#frame.onload = started;
      document.body.append(this.#frame);
    });

    constructor(url) {
      this.#started = this.#started.then(() => this.#load(url));
      this.#started.catch(() => this.onerror?.(new ErrorEvent("error", { message: `${url} cannot be loaded` })));
    }

    #load(url) {
      const inside = this.#frame.contentWindow;
      inside.postMessage = (data) => this.onmessage?.(new MessageEvent("message", { data }));
      return new Promise((loaded, failed) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src: url, onload: loaded, onerror: failed });
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.#started.then(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))).catch(() => {});
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
