// What all character back ends share: the front end, text that waits, the log file, the list.
#include "src/chardev/chardev.h"

#include <fcntl.h>

#include <algorithm>

#include "src/base/log.h"
#include "src/chardev/open.h"

namespace vmm {

namespace {
constexpr usize queue_limit = 1 * MiB;
}

constinit const TypeInfo Chardev::type{.name = "chardev", .doc = "A character back end.", .parent = &Object::type, .user_creatable = false};
static Registered registered{Chardev::type};

Chardev::~Chardev() = default;

Result<> Chardev::attach(CharFrontEnd& front) {
  if (front_ && front_ != &front) return fail("Device '{}' is in use", label());
  front_ = &front;
  front_open_ = true;  // until it says otherwise
  if (open_) front.char_event(ChardevEvent::opened);
  update_input();
  return {};
}
void Chardev::detach(CharFrontEnd& front) {
  if (front_ != &front) return;
  front_ = nullptr;
  front_open_ = false;
  update_input();
}

Result<> Chardev::may_remove() const {
  if (front_) return fail("Chardev '{}' is busy", label());
  return {};
}

void Chardev::deliver(std::span<const u8> bytes) {
  if (front_ && !bytes.empty()) front_->receive(bytes);
}
void Chardev::event(ChardevEvent e) {
  if (e == ChardevEvent::opened) open_ = true;
  if (e == ChardevEvent::closed) open_ = false;
  if (front_) front_->char_event(e);
}

bool Chardev::must_wait() {
  if (queue_.empty() || draining_) return false;
  blocked_ = true;
  return true;
}

void Chardev::write_all(std::span<const u8> bytes) {
  if (queue_.empty()) {
    draining_ = true;
    bytes = bytes.subspan(std::min(write(bytes), bytes.size()));
    draining_ = false;
    blocked_ = false;
  }
  queue_.insert(queue_.end(), bytes.begin(), bytes.end());
  if (queue_.size() > queue_limit) queue_.erase(queue_.begin(), queue_.end() - queue_limit);
}

void Chardev::output_ready() {
  if (!queue_.empty()) {
    draining_ = true;
    const bool front_waits = std::exchange(blocked_, false);
    const usize n = write(queue_);
    queue_.erase(queue_.begin(), queue_.begin() + std::min(n, queue_.size()));
    draining_ = false;
    blocked_ = front_waits;
    if (!queue_.empty()) return;
  }
  if (std::exchange(blocked_, false) && front_) front_->can_send();
}

Result<> Chardev::open_log(const std::string& path, bool append) {
  log_ = TRY(open_for_chardev(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC)));
  return {};
}
void Chardev::log(std::span<const u8> bytes) {
  while (log_ && !bytes.empty()) {
    const ssize_t n = ::write(log_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      report_warning(format("log file of chardev '{}' ends here: {}", label(), std::strerror(errno)));
      log_.reset();
      return;
    }
    bytes = bytes.subspan(usize(n));
  }
}

// --- The list

Chardev* find_chardev(std::string_view id) {
  Object* folder = root_object().child("chardevs");
  return folder ? object_cast<Chardev>(folder->child(id)) : nullptr;
}
std::vector<Chardev*> all_chardevs() {
  std::vector<Chardev*> all;
  if (Object* folder = root_object().child("chardevs"))
    for (const auto& child : folder->children())
      if (auto* c = object_cast<Chardev>(child.get())) all.push_back(c);
  return all;
}

}  // namespace vmm
