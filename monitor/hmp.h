// The human monitor: one person with a terminal on a chardev.
#pragma once

#include "monitor/line_editor.h"
#include "monitor/monitor.h"
#include "monitor/output.h"

namespace vmm::monitor {

class HmpMonitor final : public Monitor, public CharFrontEnd, private control::Context {
 public:
  HmpMonitor(Ref<Chardev> chardev);
  ~HmpMonitor() override;
  Result<> attach();

  usize can_receive() override;
  void receive(std::span<const u8> bytes) override;
  void char_event(ChardevEvent event) override;
  void can_send() override;
  bool takes_focus() const override { return false; }

 private:
  unsigned cpu_index() const override { return cpu_index_; }
  void set_cpu_index(unsigned index) override { cpu_index_ = index; }
  void greet();

  Ref<Chardev> chardev_;
  Output output_;
  LineEditor editor_;
  unsigned cpu_index_ = 0;
  bool greeted_ = false;
};

}  // namespace vmm::monitor
