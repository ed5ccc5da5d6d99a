import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

// Core says of a file that it cannot read only what its library says, such as "[Errno 1094995529] Invalid data found".
const UNREADABLE = {
  LoadAudio: "Load Audio cannot read its file: choose another one, or save it again, for instance as WAV.",
  LoadImage: "Load Image cannot read its file: choose another one, or save it again, for instance as PNG.",
  GetVideoComponents: "Get Video Components cannot read the video: load another one, or save it again, for instance as MP4.",
};

const ours = (type) => Boolean(type?.startsWith("Stillguard"));

function sentence({ node_type, exception_message }) {
  if (ours(node_type)) return exception_message.trim();
  return app.graph.nodes.some((node) => ours(node.type)) ? UNREADABLE[node_type] : undefined;
}

// The page itself only says that a node failed; the sentence that tells what to do would stay behind "View details".
app.registerExtension({
  name: "Stillguard.Errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      const told = sentence(detail ?? {});
      if (told) app.extensionManager.toast.add({ severity: "error", summary: "Stillguard", detail: told, life: 30000 });
    });
  },
});
