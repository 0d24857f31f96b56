#include "block/core/backend.h"

#include <algorithm>
#include <cstring>

#include "block/core/graph.h"
#include "block/core/sleep.h"
#include "src/control/command.h"
#include "src/event/worker_pool.h"

namespace vmm::block {

namespace {
struct Drives {
  std::vector<BackendRef> named;
  std::vector<std::weak_ptr<Backend>> all;
  std::function<void()> stop;
  std::atomic<u32> closing{0};  // media of back ends that are gone, on their way to be closed
};
Drives& drives() {
  static auto& it = *new Drives;
  return it;
}

struct IoErrorData {
  std::string device, qom_path, operation, action, reason;
  std::optional<std::string> node_name;
  bool nospace = false;
};
struct TrayData {
  std::string device, id;
  bool tray_open = false;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::IoErrorData> = {
    field<&block::IoErrorData::device>("device", "Drive id; empty for a device's own back end."),
    field<&block::IoErrorData::qom_path>("qom-path", "The device."),
    field<&block::IoErrorData::node_name>("node-name", "The node at the top."),
    field<&block::IoErrorData::operation>("operation", "read or write."),
    field<&block::IoErrorData::action>("action", "report, ignore or stop."),
    field<&block::IoErrorData::nospace>("nospace", "The host's disk is full."),
    field<&block::IoErrorData::reason>("reason", "In words."),
};
template <>
inline constexpr std::array fields<block::TrayData> = {
    field<&block::TrayData::device>("device", "Drive id; empty for a device's own back end."),
    field<&block::TrayData::id>("id", "The device."),
    field<&block::TrayData::tray_open>("tray-open", "Is it open now?"),
};
}  // namespace vmm

namespace vmm::block {

namespace {
constexpr control::EventInfo io_error_event{
    .name = "BLOCK_IO_ERROR", .doc = "A disk request failed.", .data = &Codec<IoErrorData>::description};
control::RegisteredEvent io_error_registered{io_error_event};
constexpr control::EventInfo tray_event{
    .name = "DEVICE_TRAY_MOVED", .doc = "A drive's tray was opened or closed.", .data = &Codec<TrayData>::description};
control::RegisteredEvent tray_registered{tray_event};
}  // namespace

Backend::Backend(Options options) : options_(std::move(options)), main_loop_(current_loop()) { write_cache_ = options_.write_cache; }
Backend::~Backend() {
  if (!root_) return;
  if (main_loop_) set_loop(*main_loop_);
  NodeRef node = root_->ref();
  root_.reset();
  drives().closing++;
  release(std::move(node)).start([](Result<>) { drives().closing--; });
}
bool backends_closing() { return drives().closing; }

std::string Backend::description() const {
  if (!options_.id.empty()) return format("block device '{}'", options_.id);
  return client_ ? format("device '{}'", client_->qom_path()) : std::string{"a block device"};
}

// --- Devices and media

Result<> Backend::attach(BackendClient& client) {
  if (client_ && client_ != &client) return fail("Drive '{}' is already in use by another block device", options_.id);
  client_ = &client;
  return {};
}
void Backend::detach(BackendClient& client) {
  if (client_ != &client) return;
  client_ = nullptr;
  needs_ = permit_read, shares_ = permit_all;
  if (root_) (void)root_->set_permissions(0, permit_all);
}
Result<> Backend::start(bool writes, bool shares_writes) {
  needs_ = u8(permit_read | (writes ? permit_write : 0));
  shares_ = u8(permit_read | permit_write_unchanged | permit_resize | (shares_writes ? permit_write : 0));
  if (!root_) return {};
  if (writes && root_->node().read_only()) return fail_os(EROFS, "Block node is read-only");
  return root_->set_permissions(needs_, shares_now());
}
u8 Backend::shares_now() const { return client_ && !Graph::opens_inactive ? shares_ : u8{permit_all}; }
Result<> Backend::claim() {
  if (!root_ || !client_ || Graph::opens_inactive || root_->shares() == shares_) return {};
  return root_->set_permissions(root_->needs(), shares_);
}

Result<> Backend::insert(NodeRef node) {
  if (root_) return fail("Device '{}' already has a medium", options_.id);
  u8 needs = client_ ? needs_ : 0;
  if (node->read_only()) needs &= u8(~permit_write);
  root_ = TRY(Edge::make(std::move(node), "root", description(), Role::user, needs, shares_now()));
  update_medium();
  if (client_) client_->medium_changed();
  return {};
}
void Backend::update_medium() {
  has_medium_ = root_ != nullptr;
  read_only_ = root_ ? root_->node().read_only() || options_.read_only : options_.read_only;
  length_bytes_ = root_ ? root_->length_bytes() : 0;
}
Task<> Backend::remove_medium() {
  if (!root_) co_return Result<>{};
  drain_begin();
  co_await drained();
  if (root_) {
    set_loop(*main_loop_);  // at rest: what follows happens here
    (void)co_await attempt(root_->flush());
    NodeRef node = root_->ref();
    root_.reset();
    update_medium();
    (void)co_await attempt(release(std::move(node)));
    if (client_) client_->medium_changed();
  }
  drain_end();
  co_return Result<>{};
}
Task<> Backend::resize(u64 length) {
  if (!root_) co_return fail_os(ENOMEDIUM, format("Device '{}' has no medium", options_.id));
  drain_begin();
  co_await drained();
  EventLoop& home = root_->node().loop();
  set_loop(*main_loop_);  // at rest: what follows happens here
  const u8 needs = root_->needs();
  Result<> done = root_->set_permissions(u8(needs | permit_resize), root_->shares());
  if (done) {
    done = co_await attempt(root_->truncate(length));
    (void)root_->set_permissions(needs, root_->shares());
  }
  set_loop(home);
  drain_end();
  if (done) media_resized();
  co_return done;
}
void Backend::media_resized() {
  update_medium();
  if (client_) client_->resized();
}
void Backend::tray_moved(bool open) {
  control::emit(tray_event,
                Codec<TrayData>::to_value(TrayData{.device = options_.id, .id = client_ ? client_->qom_path() : "", .tray_open = open}));
}
Limits Backend::limits() const { return root_ ? root_->node().limits() : Limits{.request_alignment = 512}; }

namespace {
void move_tree(BlockNode& node, EventLoop& loop, void (*set)(BlockNode&, EventLoop&)) {
  set(node, loop);
  for (const auto& c : node.children()) move_tree(c->node(), loop, set);
}
}  // namespace
void Backend::set_loop(EventLoop& loop) {
  if (root_) move_tree(root_->node(), loop, [](BlockNode& n, EventLoop& l) { n.loop_ = &l; });
}

// --- Requests

// Counted first, looked at the drain then: a drain that begins meanwhile sees the count or is seen.
bool Backend::begin() {
  in_flight_.fetch_add(1);
  if (!drains_.load()) [[likely]]
    return true;
  end();
  return false;
}
void Backend::end() {
  if (in_flight_.fetch_sub(1) == 1 && (drains_.load() || watchers_.load()) && main_loop_)
    main_loop_->post([weak = weak_from_this()] {
      if (auto self = weak.lock(); self && !self->in_flight()) self->idle_.wake_all();
    });
}
class Backend::InFlight {
 public:
  explicit InFlight(Backend& backend) : backend_(backend) {}
  InFlight(const InFlight&) = delete;
  ~InFlight() { backend_.end(); }

 private:
  Backend& backend_;
};
// Waits for the end of a drain; goes on on the loop that asked.
struct Backend::Held {
  Backend& backend;
  bool await_ready() const { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) {
    Lock lock{backend.held_mutex_};
    if (!backend.drains_.load()) return false;
    backend.held_.emplace_back(current_loop(), waiter);
    return true;
  }
  void await_resume() const {}
};

template <class F>
Task<> Backend::carry_out(F request, bool limited, bool writes, u64 bytes) {
  if (limited && throttle_ && throttle_->active()) {
    const Nanoseconds wait = throttle_->take(writes, bytes, monotonic_now());
    if (wait > 0ns) co_await sleep_here(wait);
  }
  while (!begin()) co_await Held{*this};
  InFlight count{*this};
  if (!root_) co_return fail_os(ENOMEDIUM);
  EventLoop* const here = current_loop();
  EventLoop& there = root_->node().loop();
  if (here == &there) co_return co_await request(*root_);
  co_await switch_to(there);
  Result<> done = co_await attempt(request(*root_));
  co_await switch_to(*here);
  co_return done;
}
Task<> Backend::read(u64 offset, IoVector into) {
  const u64 bytes = into.size();
  return carry_out([offset, into = std::move(into)](Edge& root) mutable { return root.read(offset, std::move(into)); }, true, false, bytes);
}
Task<> Backend::write(u64 offset, IoVector from, WriteFlags flags) {
  if (!write_cache()) flags.fua = true;
  const u64 bytes = from.size();
  return carry_out([offset, flags, from = std::move(from)](Edge& root) mutable { return root.write(offset, std::move(from), flags); }, true,
                   true, bytes);
}
Task<> Backend::flush() {
  return carry_out([](Edge& root) { return root.flush(); }, false, true, 0);
}
Task<> Backend::zero(u64 offset, u64 length, ZeroFlags flags) {
  if (!write_cache()) flags.fua = true;
  return carry_out([=](Edge& root) { return root.zero(offset, length, flags); }, true, true, length);
}
Task<> Backend::discard(u64 offset, u64 length) {
  return carry_out([=](Edge& root) { return root.discard(offset, length); }, true, true, length);
}

Task<> Backend::inspect(std::function<Task<>(Edge&)> question) { return carry_out(std::move(question), false, false, 0); }

void Backend::drain_begin() { drains_.fetch_add(1); }
void Backend::drain_end() {
  std::vector<std::pair<EventLoop*, std::coroutine_handle<>>> go;
  {
    Lock lock{held_mutex_};
    if (drains_.fetch_sub(1) != 1) return;
    go.swap(held_);
  }
  for (auto [loop, waiter] : go) loop->post([waiter] { waiter.resume(); });
}
Task<> Backend::drained() {
  watchers_.fetch_add(1);
  while (in_flight()) co_await idle_.wait();
  watchers_.fetch_sub(1);
  co_return Result<>{};
}

// --- Errors and statistics

void Backend::set_error_policies(ErrorPolicy read, ErrorPolicy write) { options_.read_error = read, options_.write_error = write; }
std::string_view Backend::io_status() const {
  const u8 s = io_status_.load();
  return s == 0 ? "ok" : s == 1 ? "failed" : "nospace";
}
Backend::Action Backend::error_action(Operation operation, const Error& error) {
  const bool reads = operation == Operation::read;
  const bool nospace = error_number(error) == ENOSPC;
  ErrorPolicy policy = reads ? options_.read_error : options_.write_error;
  if (policy == ErrorPolicy::automatic) policy = reads ? ErrorPolicy::report : ErrorPolicy::enospc;
  if (policy == ErrorPolicy::enospc) policy = nospace ? ErrorPolicy::stop : ErrorPolicy::report;
  const Action action = policy == ErrorPolicy::stop ? Action::stop : policy == ErrorPolicy::ignore ? Action::ignore : Action::report;
  if (action == Action::stop) io_status_.store(nospace ? 2 : 1);
  const auto tell = [self = weak_from_this(), reads, action, nospace, reason = std::string{std::strerror(error_number(error))}] {
    const auto backend = self.lock();
    if (!backend) return;
    IoErrorData data{.device = backend->id(),
                     .qom_path = backend->client_ ? backend->client_->qom_path() : "",
                     .operation = reads ? "read" : "write",
                     .action = action == Action::stop     ? "stop"
                               : action == Action::ignore ? "ignore"
                                                          : "report",
                     .reason = reason,
                     .nospace = nospace};
    if (backend->node()) data.node_name = backend->node()->node_name();
    control::emit(io_error_event, Codec<IoErrorData>::to_value(data));
    if (action == Action::stop && drives().stop) drives().stop();
  };
  if (main_loop_) main_loop_->post(tell);
  return action;
}
void Backend::account(Operation operation, u64 bytes, Nanoseconds took, bool ok) {
  OperationStatistics& s = statistics(operation);
  if (!ok) {
    s.failed.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  s.bytes.fetch_add(bytes, std::memory_order_relaxed);
  s.operations.fetch_add(1, std::memory_order_relaxed);
  s.total_ns.fetch_add(u64(took.count()), std::memory_order_relaxed);
}

// --- Registry

Result<BackendRef> make_backend(Backend::Options options) {
  if (!options.id.empty()) {
    if (find_backend(options.id)) return fail("Duplicate ID '{}' for drive", options.id);
    if (find_node(options.id)) return fail("Device name '{}' conflicts with an existing node name", options.id);
  }
  const bool named = !options.id.empty();
  BackendRef backend{new Backend{std::move(options)}};
  if (named) drives().named.push_back(backend);
  std::erase_if(drives().all, [](const auto& weak) { return weak.expired(); });
  drives().all.push_back(backend);
  return backend;
}
BackendRef find_backend(std::string_view id) {
  for (const auto& b : drives().named)
    if (b->id() == id) return b;
  return nullptr;
}
BackendRef find_backend_of_device(std::string_view id_or_path) {
  for (const auto& b : all_backends()) {
    if (!b->client()) continue;
    const std::string path = b->client()->qom_path();
    if (path == id_or_path) return b;
    // /machine/peripheral/ID, or ID/virtio-backend below it
    constexpr std::string_view folder = "/machine/peripheral/";
    if (!path.starts_with(folder)) continue;
    const std::string_view rest = std::string_view{path}.substr(folder.size());
    if (rest == id_or_path || rest.substr(0, rest.find('/')) == id_or_path) return b;
  }
  return nullptr;
}
std::vector<BackendRef> all_backends() {
  std::vector<BackendRef> out;
  for (const auto& weak : drives().all)
    if (auto b = weak.lock()) out.push_back(std::move(b));
  return out;
}
void forget_backend(const BackendRef& backend) { std::erase(drives().named, backend); }

Result<BackendRef> backend_for_device(const std::string& name) {
  if (BackendRef b = find_backend(name)) {
    if (b->client()) return fail("Drive '{}' is already in use by another block device", name);
    return b;
  }
  NodeRef node = find_node(name);
  if (!node) return fail("can't find value '{}'", name);
  BackendRef b = TRY(make_backend({}));
  TRY(b->insert(std::move(node)));
  return b;
}

void drain_all(EventLoop& main_loop) {
  const auto all = all_backends();
  for (const auto& b : all) b->drain_begin();
  for (const auto& b : all)
    while (b->in_flight()) main_loop.run_once(true);
  for (const auto& b : all) b->drain_end();
}
Task<> flush_all() {
  Result<> first;
  for (const auto& b : all_backends()) {
    if (!b->has_medium() || b->read_only()) continue;
    auto done = co_await attempt(b->flush());
    if (!done && first) first = std::move(done);
  }
  co_return first;
}
void set_stop_request(std::function<void()> stop) { drives().stop = std::move(stop); }

}  // namespace vmm::block
