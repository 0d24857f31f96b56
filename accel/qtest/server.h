// The qtest protocol on a character device: lines that drive ports, memory, interrupt lines and the clock of a machine. Source: the
// protocol's description in QEMU's documentation (docs/devel/qtest), and what QEMU 7.2 answers. Main loop, machine lock held.
#pragma once

#include <memory>

#include "src/chardev/chardev.h"
#include "src/vm/machine.h"

namespace vmm::qtest {

class Server final : public CharFrontEnd {
 public:
  // `log`: a file that every line is written to; empty: none.
  static Result<std::unique_ptr<Server>> make(Ref<Chardev> chardev, vm::Machine& machine, const std::string& log);
  ~Server() override;

  usize can_receive() override { return answers_.empty() ? 64 * KiB : 0; }  // who does not read is not heard
  void receive(std::span<const u8> bytes) override;
  void can_send() override { flush(); }
  void char_event(ChardevEvent event) override;

 private:
  Server(Ref<Chardev> chardev, vm::Machine& machine) : chardev_(std::move(chardev)), machine_(machine) {}
  using Words = std::vector<std::string_view>;
  struct Row;
  static const Row rows[];
  void line(std::string_view text);
  void say(std::string_view answer);
  void flush();
  void note(char direction, std::string_view text);
  Object* find(std::string_view path);

  Result<std::string> port(const Words& w);
  Result<std::string> memory(const Words& w);
  Result<std::string> read_block(const Words& w);
  Result<std::string> write_block(const Words& w);
  Result<std::string> set_block(const Words& w);
  Result<std::string> clock(const Words& w);
  Result<std::string> intercept(const Words& w);
  Result<std::string> set_irq(const Words& w);
  Result<std::string> endianness(const Words&) { return "little"; }

  Ref<Chardev> chardev_;
  vm::Machine& machine_;
  std::string line_, answers_;
  bool too_long_ = false;
  Object* intercepted_ = nullptr;
  Fd log_;
  Nanoseconds opened_{};
};

}  // namespace vmm::qtest
