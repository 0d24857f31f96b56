// A chardev whose both ends the test holds. Make it after the bench.
#pragma once

#include "src/chardev/chardev.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

class BenchChardev final : public Chardev {
 public:
  static const TypeInfo type;
  usize write(std::span<const u8> bytes) override {
    const usize n = std::min(bytes.size(), room);
    output.append(reinterpret_cast<const char*>(bytes.data()), n);
    room -= n;
    return n;
  }
  std::string filename() const override { return "bench"; }
  // The host end sends; what the front end does not take now waits.
  void feed(std::string_view text) {
    waiting += text;
    update_input();
  }
  void make_room(usize n) {
    room = n;
    if (front_) front_->can_send();
  }
  void send_break() { front_->char_event(ChardevEvent::break_); }
  std::string output, waiting;
  usize room = ~usize{0};

 protected:
  void update_input() override {
    while (front_ && !waiting.empty()) {
      const usize n = std::min(front_->can_receive(), waiting.size());
      if (!n) return;
      const std::string part = waiting.substr(0, n);
      waiting.erase(0, n);
      front_->receive({reinterpret_cast<const u8*>(part.data()), part.size()});
    }
  }
};

// Under /chardevs/ID while it lives; goes before the bench's device lets go of it, which is fine.
class HostEnd {
 public:
  explicit HostEnd(std::string id) : it_(make_object<BenchChardev>()) { root_object().child("chardevs")->add_child(std::move(id), it_); }
  ~HostEnd() { root_object().child("chardevs")->remove_child(*it_); }
  HostEnd(const HostEnd&) = delete;
  BenchChardev* operator->() const { return it_.get(); }

 private:
  Ref<BenchChardev> it_;
};

}  // namespace vmm::test
