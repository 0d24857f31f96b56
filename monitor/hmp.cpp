// The human monitor on a chardev: prompt, line editor, one line at a time. Source: contract.md §4.
#include "monitor/hmp.h"

#include "monitor/human.h"
#include "src/control/version.h"

namespace vmm::monitor {

HmpMonitor::HmpMonitor(Ref<Chardev> chardev)
    : chardev_(std::move(chardev)), output_(*chardev_), editor_("(qemu) ", [this](std::string_view s) { output_.add(s); }) {
  editor_.complete = complete_human;
}

HmpMonitor::~HmpMonitor() { chardev_->detach(*this); }

Result<> HmpMonitor::attach() {
  TRY(chardev_->attach(*this));
  // A multiplexer tells when its keys come to us.
  if (chardev_->connected() && !chardev_->is_mux() && !greeted_) greet();
  chardev_->accept_input();
  return {};
}

void HmpMonitor::greet() {
  if (!std::exchange(greeted_, true)) output_.add(format("QEMU {} monitor - type 'help' for more information\r\n", control::version_text));
  editor_.show_prompt();
}

void HmpMonitor::char_event(ChardevEvent event) {
  switch (event) {
    case ChardevEvent::opened:
      if (!chardev_->is_mux()) greet();
      break;
    case ChardevEvent::mux_in: greet(); break;
    case ChardevEvent::closed:
      output_.clear();
      greeted_ = false;
      break;
    case ChardevEvent::mux_out:
    case ChardevEvent::break_: break;
  }
}

usize HmpMonitor::can_receive() { return output_.crowded() ? 0 : 256; }

void HmpMonitor::receive(std::span<const u8> bytes) {
  for (u8 byte : bytes) {
    if (!editor_.key(byte)) continue;
    output_.add(with_crlf(run_human_line(*this, editor_.take_line())));
    editor_.show_prompt();
  }
}

void HmpMonitor::can_send() {
  output_.flush();
  if (!output_.crowded()) chardev_->accept_input();
}

}  // namespace vmm::monitor
