#include "monitor/monitor.h"

#include "monitor/hmp.h"
#include "monitor/qmp.h"

namespace vmm::monitor {

Monitor::~Monitor() = default;

Result<std::unique_ptr<Monitor>> Monitor::make(Ref<Chardev> chardev, Options options) {
  if (options.mode == Mode::control) {
    if (chardev->is_mux()) return fail("a monitor in control mode can't share '{}' with others", chardev->label());
    auto monitor = std::make_unique<QmpMonitor>(std::move(chardev), options);
    TRY(monitor->attach());
    return monitor;
  }
  auto monitor = std::make_unique<HmpMonitor>(std::move(chardev));
  TRY(monitor->attach());
  return monitor;
}

}  // namespace vmm::monitor
