import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

// ComfyUI's server hands HTML out as a download only, so that no file can act as part of its page. The report is therefore read
// as text and shown in a frame without scripts and without access to the page.
const STYLE = `
.stillguard-report-dialog { width: min(76rem, 96vw); height: 94vh; max-width: none; max-height: none; padding: 0; border: 0; border-radius: 6px; overflow: hidden; }
.stillguard-report-dialog::backdrop { background: #000a; }
.stillguard-report-dialog[open] { display: flex; flex-direction: column; }
.stillguard-report-dialog header { display: flex; gap: 0.5rem; align-items: center; padding: 0.4rem 0.6rem; background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd); font: 13px system-ui, sans-serif; }
.stillguard-report-dialog header span { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.stillguard-report-dialog iframe { flex: 1; width: 100%; border: 0; }
.stillguard-report { display: flex; gap: 6px; width: 100%; box-sizing: border-box; }
.stillguard-report button, .stillguard-report-dialog button, .stillguard-report-dialog a { flex: none; padding: 0.3rem 0.7rem; border: 1px solid var(--border-color, #555); border-radius: 4px; background: var(--comfy-input-bg, #333); color: var(--input-text, #ddd); font: 13px system-ui, sans-serif; text-decoration: none; cursor: pointer; }
.stillguard-report button { flex: 1; min-height: 28px; }`;

const address = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

async function show(file) {
  const answer = await api.fetchApi(`/view?${new URLSearchParams(file)}`);
  if (!answer.ok) {
    const detail = `${file.filename} is no longer in the output folder: run the workflow again to write a new report.`;
    app.extensionManager.toast.add({ severity: "error", summary: "Stillguard", detail, life: 30000 });
    return;
  }
  // Without a base of its own, a link within the report would lead the frame to this page.
  const text = (await answer.text()).replace("<head>", '<head><base href="about:srcdoc">');
  const frame = make("iframe", { title: "Protection report", srcdoc: text });
  frame.setAttribute("sandbox", "");
  const close = make("button", { type: "button", textContent: "Close", onclick: () => dialog.close() });
  const save = make("a", { href: address(file), download: file.filename, textContent: "Save a copy" });
  const dialog = make("dialog", { className: "stillguard-report-dialog" }, make("header", {}, make("span", { textContent: file.filename }), save, close), frame);
  dialog.addEventListener("close", () => dialog.remove());
  // The page's own shortcuts (delete a node, run) must not hear what is typed here.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
}

app.registerExtension({
  name: "Stillguard.Report",
  setup() {
    document.head.append(make("style", { textContent: STYLE }));
  },
  nodeCreated(node) {
    if (node.comfyClass !== "StillguardProtectionReport") return;
    let file;
    const press = () => {
      // A tab of the page that is opened again makes its nodes anew, and gives them their last outputs without a word.
      file ??= app.nodeOutputs?.[node.id]?.stillguard_report?.[0];
      if (file) return show(file);
      app.extensionManager.toast.add({ severity: "info", summary: "Stillguard", detail: "Run the workflow first: it writes the report.", life: 8000 });
    };
    const button = make("button", { type: "button", textContent: "Open report", onclick: press });
    button.addEventListener("pointerdown", (event) => event.stopPropagation());
    node.addDOMWidget("report_view", "STILLGUARD_REPORT", make("div", { className: "stillguard-report" }, button), {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => 32,
      getMaxHeight: () => 32,
    });
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      file = output?.stillguard_report?.[0] ?? file;
    };
  },
});
