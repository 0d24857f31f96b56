// Back ends that are descriptors: reading as much as the front end takes, writing as much as the host takes.
#pragma once

#include "src/chardev/chardev.h"

namespace vmm {

class StreamChardev : public Chardev {
 public:
  usize write(std::span<const u8> bytes) override;

 protected:
  void use(EventLoop& loop, int in, int out);  // starts; -1: that way is closed
  void end();                                  // forgets both (does not close)
  EventLoop& loop() const { return *loop_; }
  bool in_use() const { return in_ >= 0 || out_ >= 0; }
  void update_input() override;
  // One attempt, as read(2) and write(2); may be replaced for sockets. EAGAIN and EINTR are dealt with by the caller.
  virtual ssize_t receive_some(std::span<u8> into);
  virtual ssize_t send_some(std::span<const u8> bytes);
  virtual usize filter_input(std::span<u8> bytes) { return bytes.size(); }  // takes protocol bytes out, in place
  virtual void input_ended() { stop_input(); }                              // end of file or an error
  virtual void output_failed() {}
  virtual bool takes_output() const { return out_ >= 0; }  // false: everything is taken and dropped
  void stop_input();
  void wait_for_output() { watch_output(); }
  EventLoop* loop_ = nullptr;

 private:
  void readable();
  void watch_output();
  void fail_later();
  bool failed_ = false;
  u64 connection_ = 0;
  int in_ = -1, out_ = -1;
  FdWatch in_watch_, out_watch_;
};

}  // namespace vmm
