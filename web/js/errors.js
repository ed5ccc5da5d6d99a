import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

// The page itself only says that a node failed; the sentence that tells what to do would stay behind "View details".
app.registerExtension({
  name: "Stillguard.Errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail?.node_type?.startsWith("Stillguard")) return;
      app.extensionManager.toast.add({ severity: "error", summary: "Stillguard", detail: detail.exception_message.trim(), life: 30000 });
    });
  },
});
