#include "src/chardev/stream.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace vmm {

void StreamChardev::use(EventLoop& loop, int in, int out) {
  loop_ = &loop, in_ = in, out_ = out;
  failed_ = false, connection_++;
  update_input();
}
void StreamChardev::end() {
  in_watch_.stop();
  out_watch_.stop();
  in_ = out_ = -1;
  failed_ = false, connection_++;
}
void StreamChardev::stop_input() {
  in_watch_.stop();
  in_ = -1;
}

// Stopped rather than left without events: a descriptor that hung up would be reported for ever.
void StreamChardev::update_input() {
  const bool wanted = in_ >= 0 && front_ && front_->can_receive() > 0;
  if (!wanted)
    in_watch_.stop();
  else if (!in_watch_.active())
    in_watch_.start(*loop_, in_, EPOLLIN, [this](u32) { readable(); });
}

void StreamChardev::readable() {
  const Ref<Chardev> keep{this};
  std::array<u8, 4096> buffer;
  const usize room = front_ ? std::min(front_->can_receive(), buffer.size()) : 0;
  if (!room) return update_input();
  const ssize_t n = receive_some({buffer.data(), room});
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return input_ended();
  deliver(std::span{buffer}.first(filter_input(std::span{buffer}.first(usize(n)))));
  update_input();
}

ssize_t StreamChardev::receive_some(std::span<u8> into) { return ::read(in_, into.data(), into.size()); }
ssize_t StreamChardev::send_some(std::span<const u8> bytes) { return ::write(out_, bytes.data(), bytes.size()); }

usize StreamChardev::write(std::span<const u8> bytes) {
  if (must_wait()) return 0;
  usize done = 0;
  while (done < bytes.size() && !failed_ && takes_output()) {
    const ssize_t n = send_some(bytes.subspan(done));
    if (n > 0) {
      done += usize(n);
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      was_short();
      watch_output();
      break;
    } else {
      done = bytes.size();  // nobody is there to take it
      fail_later();
    }
  }
  if (failed_ || !takes_output()) done = bytes.size();
  log(bytes.first(done));
  return done;
}

// Not from within write(): the front end would hear of the end in the middle of what it is doing.
void StreamChardev::fail_later() {
  failed_ = true;
  loop_->post([keep = Ref<StreamChardev>{this}, connection = connection_] {
    if (keep->connection_ != connection) return;
    keep->failed_ = false;
    keep->output_failed();
  });
}

void StreamChardev::watch_output() {
  if (out_watch_.active() || out_ < 0) return;
  out_watch_.start(*loop_, out_, EPOLLOUT, [this](u32) {
    const Ref<Chardev> keep{this};
    out_watch_.stop();
    output_ready();
    if (output_wanted()) watch_output();
  });
}

}  // namespace vmm
