// Backend: what a disk device holds of the block layer. It has the drive's id, its medium (a node, or none), the policy for errors,
// the write-cache switch, the tray, and statistics. Requests may come from any loop: they hop to the medium's loop and back.
#pragma once

#include <atomic>
#include <functional>

#include "block/core/node.h"
#include "block/core/throttle.h"

namespace vmm::block {

enum class ErrorPolicy : u8 { automatic, ignore, report, stop, enospc };  // werror=, rerror=

// The device's side: told on the main loop, machine lock held.
class BackendClient {
 public:
  virtual ~BackendClient() = default;
  virtual std::string qom_path() const = 0;  // of the device that query-block names
  virtual void medium_changed() {}           // another medium, or none; the tray was closed or opened with it
  virtual void resized() {}                  // length_bytes() is new
  virtual bool removable() const { return false; }
  virtual bool tray_open() const { return false; }
  virtual bool locked() const { return false; }  // the guest forbids ejecting
  virtual void set_tray(bool /*open*/) {}        // by the user; the device emits DEVICE_TRAY_MOVED via Backend::tray_moved()
  virtual void eject_requested(bool /*force*/) {}
};

enum class Operation : u8 { read, write, flush, unmap };
inline constexpr unsigned operation_count = 4;

struct OperationStatistics {
  std::atomic<u64> bytes{0}, operations{0}, failed{0}, invalid{0}, merged{0}, total_ns{0};
};

class Backend : public std::enable_shared_from_this<Backend> {
 public:
  struct Options {
    std::string id;  // of -drive; empty for a device's own, anonymous one
    ErrorPolicy read_error = ErrorPolicy::automatic, write_error = ErrorPolicy::automatic;
    bool write_cache = true;
    bool read_only = false;
  };
  ~Backend();
  Backend(const Backend&) = delete;

  const std::string& id() const { return options_.id; }
  const Options& options() const { return options_; }

  // --- The device.
  Result<> attach(BackendClient& client);  // "in use" if another device has it
  void detach(BackendClient& client);
  BackendClient* client() const { return client_; }
  // Called at realize, after attach: takes the medium with these needs. A read-only medium for a device that must write is an error.
  Result<> start(bool writes, bool shares_writes);

  // --- Requests: from any loop; they end on the loop that they came from. A failure carries its errno (error_number()); no medium:
  // ENOMEDIUM. While the system drains they wait. With the write cache off, writes are stable when they end.
  Task<> read(u64 offset, IoVector into);
  Task<> write(u64 offset, IoVector from, WriteFlags flags = {});
  Task<> flush();
  Task<> zero(u64 offset, u64 length, ZeroFlags flags = {});
  Task<> discard(u64 offset, u64 length);
  // A question to the medium, on its loop and counted as a request. What it refers to outlives it.
  Task<> inspect(std::function<Task<>(Edge&)> question);

  bool has_medium() const { return has_medium_.load(std::memory_order_acquire); }
  u64 length_bytes() const { return length_bytes_.load(std::memory_order_acquire); }  // 0 without medium
  bool read_only() const { return read_only_.load(std::memory_order_acquire); }       // medium or drive
  Limits limits() const;
  bool write_cache() const { return write_cache_.load(std::memory_order_acquire); }
  void set_write_cache(bool on) { write_cache_.store(on, std::memory_order_release); }

  // --- Errors. What the device does with a failed request: report it to the guest, take it for done, or keep it and try again when the
  // machine runs again (the stop is asked for already). Emits BLOCK_IO_ERROR. Any loop.
  enum class Action : u8 { report, ignore, stop };
  Action error_action(Operation operation, const Error& error);
  void set_error_policies(ErrorPolicy read, ErrorPolicy write);
  std::string_view io_status() const;  // "ok", "failed", "nospace"
  void reset_io_status() { io_status_.store(0); }

  // --- Statistics of what the guest asked; the device calls account() when it answers.
  OperationStatistics& statistics(Operation operation) { return statistics_[usize(operation)]; }
  void account(Operation operation, u64 bytes, Nanoseconds took, bool ok);

  // --- Medium (main loop).
  BlockNode* node() const { return root_ ? &root_->node() : nullptr; }
  Edge* root() const { return root_.get(); }
  Result<> insert(NodeRef node);
  // What the device forbids others counts again: not so while its machine waits for an incoming one, whose source may fill the disks.
  Result<> claim();
  Task<> remove_medium();  // drains, then releases
  Task<> resize(u64 length);
  void tray_moved(bool open);                  // DEVICE_TRAY_MOVED
  void media_resized();                        // the node's length has changed: tells the device
  void medium_replaced() { update_medium(); }  // by another node with the same contents, at rest

  // --- Draining. New requests wait from drain_begin() to drain_end() (counted); drained() ends when none is under way.
  void drain_begin();
  void drain_end();
  Task<> drained();
  // The loop that the medium's requests run on (an iothread's); main loop, by default the one that made it. Drained by the caller.
  void set_loop(EventLoop& loop);
  u32 in_flight() const { return in_flight_.load(std::memory_order_acquire); }

  // --- Limits. Its own, or those of a group that it joins.
  void set_throttle(std::shared_ptr<Throttle> throttle) { throttle_ = std::move(throttle); }  // drained by the caller
  const std::shared_ptr<Throttle>& throttle() const { return throttle_; }

  std::string description() const;  // "block device 'disk0'" for messages

 private:
  explicit Backend(Options options);
  friend Result<std::shared_ptr<Backend>> make_backend(Options options);
  class InFlight;
  struct Held;
  bool begin();
  void end();
  template <class F>
  Task<> carry_out(F request, bool limited, bool writes, u64 bytes);
  void update_medium();
  u8 shares_now() const;
  Options options_;
  EventLoop* main_loop_ = nullptr;
  BackendClient* client_ = nullptr;
  std::unique_ptr<Edge> root_;
  u8 needs_ = permit_read, shares_ = permit_all;
  std::atomic<u64> length_bytes_{0};
  std::atomic<bool> has_medium_{false}, read_only_{false}, write_cache_{true};
  std::atomic<u32> in_flight_{0}, drains_{0}, watchers_{0};
  std::atomic<u8> io_status_{0};
  Mutex held_mutex_;
  std::vector<std::pair<EventLoop*, std::coroutine_handle<>>> held_ GUARDED_BY(held_mutex_);  // wait for the end of a drain
  std::shared_ptr<Throttle> throttle_;
  WaitList idle_;
  OperationStatistics statistics_[operation_count];
};
using BackendRef = std::shared_ptr<Backend>;

// A drive: named (an id that no other drive or node has), or anonymous if options.id is empty.
Result<BackendRef> make_backend(Backend::Options options);
BackendRef find_backend(std::string_view id);                    // by drive id
BackendRef find_backend_of_device(std::string_view id_or_path);  // by the device's id or QOM path
std::vector<BackendRef> all_backends();                          // in the order of making; anonymous ones too
void forget_backend(const BackendRef& backend);                  // drive_del; the device's own go by themselves
bool backends_closing();                                         // media of back ends that have gone are still being closed
// For `stop`, reset and the end: all backends drained (their requests may still wait); main loop, nested turns.
void drain_all(EventLoop& main_loop);
Task<> flush_all();
// Asked for when an error must stop the machine. Set once.
void set_stop_request(std::function<void()> stop);

// `drive=` of a device: the id of a drive, or a node's name (then the device gets a backend of its own for it).
Result<BackendRef> backend_for_device(const std::string& name);

}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::ErrorPolicy> = {EnumNameOf<block::ErrorPolicy>{block::ErrorPolicy::automatic, "auto"},
                                                              EnumNameOf<block::ErrorPolicy>{block::ErrorPolicy::ignore, "ignore"},
                                                              EnumNameOf<block::ErrorPolicy>{block::ErrorPolicy::report, "report"},
                                                              EnumNameOf<block::ErrorPolicy>{block::ErrorPolicy::stop, "stop"},
                                                              EnumNameOf<block::ErrorPolicy>{block::ErrorPolicy::enospc, "enospc"}};
// The property itself: field<&VirtioBlk::drive_>("drive", "Node name or id of a drive.").
template <>
struct Codec<block::BackendRef> {
  static constexpr TypeDescription description{.name = "str", .kind = TypeDescription::Kind::string};
  static Value to_value(const block::BackendRef& v) {
    if (!v) return Value{std::string{}};
    if (v->id().empty() && v->node()) return Value{v->node()->node_name()};
    return Value{v->id()};
  }
  static Result<> from_value(block::BackendRef& to, const Value& v, std::string_view what, const FieldLimits&) {
    const std::string name = TRY(v.as_string(what));
    if (name.empty()) return to = nullptr, Result<>{};
    to = TRY(block::backend_for_device(name));
    return {};
  }
};
}  // namespace vmm
