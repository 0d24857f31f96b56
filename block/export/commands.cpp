// The monitor's NBD server: nbd-server-start, -add, -remove, -stop, block-export-add, -del, query-block-exports and the older words of the
// human monitor. Texts as QEMU 7.2 has them (observed).
#include <algorithm>

#include "block/core/commands.h"
#include "block/core/handover.h"
#include "block/core/quiet.h"
#include "block/export/server.h"
#include "src/event/loop_local.h"

namespace vmm {
namespace block {
namespace {
enum class RemoveMode : u8 { safe, hard };
struct StartArgs {
  Value addr;
  std::optional<std::string> tls_creds, tls_authz;
  std::optional<u32> max_connections;
};
struct NbdAddArgs {
  std::string device;
  std::optional<std::string> name, description, bitmap;
  std::optional<bool> writable;
};
struct NbdRemoveArgs {
  std::string name;
  std::optional<RemoveMode> mode;
};
struct ExportAddArgs {
  std::string type, id, node_name;
  std::optional<bool> writable, writethrough, allocation_depth, fixed_iothread;
  std::optional<std::string> iothread, name, description;
  std::optional<std::vector<Value>> bitmaps;
};
struct ExportDelArgs {
  std::string id;
  std::optional<RemoveMode> mode;
};
struct ExportInfo {
  std::string id, type, node_name;
  bool shutting_down = false;
};
struct ExportDeletedData {
  std::string id;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array enum_names<block::RemoveMode> = {EnumNameOf<block::RemoveMode>{block::RemoveMode::safe, "safe"},
                                                             EnumNameOf<block::RemoveMode>{block::RemoveMode::hard, "hard"}};
template <>
inline constexpr std::array fields<block::StartArgs> = {
    field<&block::StartArgs::addr>("addr", "Where to listen: type (inet, unix, fd) and data."),
    field<&block::StartArgs::max_connections>("max-connections", "Clients at one time; 0: 100."),
    field<&block::StartArgs::tls_creds>("tls-creds", "Not possible.", {.hidden = true}),
    field<&block::StartArgs::tls_authz>("tls-authz", "Not possible.", {.hidden = true}),
};
template <>
inline constexpr std::array fields<block::NbdAddArgs> = {
    field<&block::NbdAddArgs::device>("device", "A drive's id or a node's name."),
    field<&block::NbdAddArgs::name>("name", "Name of the export; by default that of the device."),
    field<&block::NbdAddArgs::description>("description", "For people."),
    field<&block::NbdAddArgs::writable>("writable", "Clients may write."),
    field<&block::NbdAddArgs::bitmap>("bitmap", "A dirty bitmap that clients may read."),
};
template <>
inline constexpr std::array fields<block::NbdRemoveArgs> = {
    field<&block::NbdRemoveArgs::name>("name", "The export."),
    field<&block::NbdRemoveArgs::mode>("mode", "safe: not while it has clients; hard: sends them away."),
};
template <>
inline constexpr std::array fields<block::ExportAddArgs> = {
    field<&block::ExportAddArgs::type>("type", "nbd."),
    field<&block::ExportAddArgs::id>("id", "Name for the monitor."),
    field<&block::ExportAddArgs::node_name>("node-name", "The node."),
    field<&block::ExportAddArgs::writable>("writable", "Clients may write."),
    field<&block::ExportAddArgs::writethrough>("writethrough", "Writes are stable when they end."),
    field<&block::ExportAddArgs::iothread>("iothread", "Not possible.", {.hidden = true}),
    field<&block::ExportAddArgs::fixed_iothread>("fixed-iothread", "Not needed.", {.hidden = true}),
    field<&block::ExportAddArgs::name>("name", "Name for clients; by default that of the node."),
    field<&block::ExportAddArgs::description>("description", "For people."),
    field<&block::ExportAddArgs::bitmaps>("bitmaps", "Dirty bitmaps that clients may read: names, or node and name."),
    field<&block::ExportAddArgs::allocation_depth>("allocation-depth", "Clients may ask which image of the chain has a range."),
};
template <>
inline constexpr std::array fields<block::ExportDelArgs> = {
    field<&block::ExportDelArgs::id>("id", "The export."),
    field<&block::ExportDelArgs::mode>("mode", "safe: not while it has clients; hard: sends them away."),
};
template <>
inline constexpr std::array fields<block::ExportInfo> = {
    field<&block::ExportInfo::id>("id", "Its name."),
    field<&block::ExportInfo::type>("type", "nbd."),
    field<&block::ExportInfo::node_name>("node-name", "The node."),
    field<&block::ExportInfo::shutting_down>("shutting-down", "Waits for its last client to go."),
};
template <>
inline constexpr std::array fields<block::ExportDeletedData> = {field<&block::ExportDeletedData::id>("id", "The export.")};

namespace block {
namespace {

constexpr control::EventInfo deleted_event{
    .name = "BLOCK_EXPORT_DELETED", .doc = "An export is gone.", .data = &Codec<ExportDeletedData>::description};
control::RegisteredEvent deleted_registered{deleted_event};

constexpr u32 usual_connections = 100;

// The process has one server, as the commands know only one. Null: not started.
std::unique_ptr<nbd::Server>& the_server() {
  static auto& it = *new std::unique_ptr<nbd::Server>;
  return it;
}
Task<> stop_server() {
  if (!the_server()) co_return Result<>{};
  const std::unique_ptr<nbd::Server> server = std::move(the_server());  // a new one may be started meanwhile
  co_return co_await server->stop();
}

Result<> start_server(nbd::Address address, u32 most_clients) {
  if (the_server()) return fail("NBD server already running");
  [[maybe_unused]] static const bool once = (before_close([](EventLoop& loop) { (void)run_task(loop, stop_server()); }), true);
  auto server = std::make_unique<nbd::Server>(
      *current_loop(),
      nbd::Server::Options{.most_clients = most_clients ? most_clients : usual_connections, .export_gone = [](const Export& e) {
                             control::emit(deleted_event, Codec<ExportDeletedData>::to_value({e.options().id}));
                           }});
  TRY(server->listen(std::move(address)));
  the_server() = std::move(server);
  return {};
}

Result<> start(control::Context&, const StartArgs& a) {
  if (a.tls_creds || a.tls_authz) return fail("TLS is not possible on NBD servers; use a unix socket or a tunnel");
  if (!a.addr.is_object()) return fail("Invalid parameter type for 'addr', expected: object");
  auto address = nbd::read_address(a.addr);
  if (!address) {
    // The words of the driver's option fit, but for its name.
    std::string text = address.error().message;
    if (const auto at = text.find("server."); at != text.npos) text.replace(at, 7, "addr.");
    return fail("{}", text);
  }
  return start_server(std::move(*address), a.max_connections.value_or(0));
}
Task<Value> stop(control::Context&, Value arguments) {
  if (auto ok = assign_fields(nullptr, {}, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  if (!the_server()) co_return fail("NBD server not running");
  co_await stop_server();
  co_return Value::object();
}

Result<> offer(NodeRef node, ExportOptions options) {
  if (!the_server()) return fail("NBD server not running");
  if (the_server()->find_id(options.id)) return fail("Block export id '{}' is already in use", options.id);
  if (the_server()->find(options.name)) return fail("NBD server already has export named '{}'", options.name);
  // A target's disk that its source fills.
  if (options.writable && opening_inactive() && node->inactive()) TRY(wait_for(activate_tree(node)));
  return the_server()->add(TRY(Export::make(std::move(node), std::move(options))));
}

Result<> nbd_add(control::Context&, const NbdAddArgs& a) {
  NodeRef node;
  if (const BackendRef b = find_backend(a.device)) {
    if (!b->root()) return fail("Device '{}' has no medium", a.device);
    node = b->root()->ref();
  } else {
    node = find_node(a.device);
  }
  if (!node) return fail("Cannot find device='{}' nor node-name='{}'", a.device, a.device);
  const std::string name = a.name.value_or(a.device);
  ExportOptions o{.id = name, .name = name, .description = a.description.value_or(""), .writable = a.writable.value_or(false)};
  // It was never an error to offer what cannot be written.
  if (node->read_only()) o.writable = false;
  if (a.bitmap) o.bitmaps.push_back(*a.bitmap);
  return offer(std::move(node), std::move(o));
}
Result<> nbd_remove(control::Context&, const NbdRemoveArgs& a) {
  const nbd::Server* running = the_server().get();
  const ExportRef e = running ? the_server()->find(a.name) : nullptr;
  if (!running) return fail("NBD server not running");
  if (!e) return fail("Export '{}' is not found", a.name);
  return the_server()->remove(e, a.mode == RemoveMode::hard);
}
Result<> export_add(control::Context&, const ExportAddArgs& a) {
  if (a.type != "nbd") return fail("Parameter 'type' does not accept value '{}'", a.type.substr(0, 100));
  if (a.iothread) return fail("Exports run on the main loop: 'iothread' is not possible");
  if (a.id.empty()) return fail("Parameter 'id' expects an identifier");
  NodeRef node = find_node(a.node_name);
  if (!node) return fail("Cannot find device='' nor node-name='{}'", a.node_name);
  ExportOptions o{.id = a.id,
                  .name = a.name.value_or(a.node_name),
                  .description = a.description.value_or(""),
                  .writable = a.writable.value_or(false),
                  .writethrough = a.writethrough.value_or(false),
                  .allocation_depth = a.allocation_depth.value_or(false)};
  if (a.bitmaps)
    for (const Value& b : *a.bitmaps) {
      const Value* name = b.is_object() ? b.find("name") : &b;
      if (!name || !name->is_string()) return fail("Invalid parameter type for 'bitmaps', expected: string or object");
      o.bitmaps.push_back(name->get_string());
    }
  return offer(std::move(node), std::move(o));
}
Result<> export_del(control::Context&, const ExportDelArgs& a) {
  const ExportRef e = the_server() ? the_server()->find_id(a.id) : nullptr;
  if (!e) return fail("Export '{}' is not found", a.id);
  if (e->closing) return fail("Export '{}' is already shutting down", a.id);
  return the_server()->remove(e, a.mode == RemoveMode::hard);
}
Result<std::vector<ExportInfo>> query_exports(control::Context&) {
  std::vector<ExportInfo> out;
  if (the_server())
    for (const auto& e : the_server()->exports())
      out.push_back({.id = e->options().id, .type = "nbd", .node_name = e->node_name(), .shutting_down = e->closing});
  return out;
}

// --- The human monitor

struct Flags {
  std::string letters;
  std::vector<std::string> words;
};
Result<Flags> take_flags(std::span<const std::string> words, std::string_view allowed) {
  Flags f;
  for (const auto& w : words) {
    if (w.size() == 2 && w[0] == '-') {
      if (!allowed.contains(w[1])) return fail("unsupported option {}", w);
      f.letters += w[1];
    } else {
      f.words.push_back(w);
    }
  }
  return f;
}
Result<std::string> human_start(control::Context& context, std::span<const std::string> words) {
  const Flags f = TRY(take_flags(words, "aw"));
  const bool writable = f.letters.contains('w'), all = f.letters.contains('a');
  if (f.words.size() != 1 || (writable && !all)) return fail("nbd_server_start takes [-a [-w]] host:port");
  // "unix:PATH" and "HOST:PORT" as in the driver's old names.
  const Value tree = TRY(nbd::parse_name(format("nbd:{}", f.words[0])));
  TRY(start_server(TRY(nbd::read_address(*tree.find("server"))), 0));
  if (!all) return std::string{};
  for (const auto& b : all_backends()) {
    if (b->id().empty() || !b->node()) continue;
    const auto added = nbd_add(context, {.device = b->id(), .writable = writable});
    if (added) continue;
    (void)wait_for(stop_server());
    return std::unexpected(added.error());
  }
  return std::string{};
}
Result<std::string> human_add(control::Context& context, std::span<const std::string> words) {
  const Flags f = TRY(take_flags(words, "w"));
  if (f.words.empty() || f.words.size() > 2) return fail("nbd_server_add takes [-w] device [name]");
  NbdAddArgs a{.device = f.words[0], .writable = f.letters.contains('w')};
  if (f.words.size() == 2) a.name = f.words[1];
  TRY(nbd_add(context, a));
  return std::string{};
}
Result<std::string> human_remove(control::Context& context, std::span<const std::string> words) {
  const Flags f = TRY(take_flags(words, "f"));
  if (f.words.size() != 1) return fail("nbd_server_remove takes [-f] name");
  TRY(nbd_remove(context, {.name = f.words[0], .mode = f.letters.contains('f') ? RemoveMode::hard : RemoveMode::safe}));
  return std::string{};
}
Result<std::string> human_stop(control::Context&, std::span<const std::string>) {
  if (!the_server()) return fail("NBD server not running");
  TRY(wait_for(stop_server()));
  return std::string{};
}

control::Registered registered[] = {
    control::Registered{control::command<start>({.name = "nbd-server-start", .doc = "Begins to listen for NBD clients.", .since = "1.3"})},
    control::Registered{control::command<nbd_add>({.name = "nbd-server-add", .doc = "Offers a node to NBD clients.", .since = "1.3"})},
    control::Registered{control::command<nbd_remove>({.name = "nbd-server-remove", .doc = "Offers it no longer.", .since = "2.12"})},
    control::Registered{control::Command{
        .info = {.name = "nbd-server-stop", .doc = "Ends the NBD server, its exports and clients.", .since = "1.3"}, .run_slow = stop}},
    control::Registered{control::command<export_add>({.name = "block-export-add", .doc = "Offers a node to others.", .since = "5.2"})},
    control::Registered{control::command<export_del>({.name = "block-export-del", .doc = "Offers it no longer.", .since = "5.2"})},
    control::Registered{control::command<query_exports>({.name = "query-block-exports", .doc = "What is offered.", .since = "5.2"})},
    control::Registered{control::human<human_start>(
        {.human = "nbd_server_start",
         .human_help = "nbd_server_start [-a] [-w] host:port -- serve block devices on the given host and port"})},
    control::Registered{control::human<human_add>(
        {.human = "nbd_server_add", .human_help = "nbd_server_add [-w] device [name] -- export a block device via NBD"})},
    control::Registered{control::human<human_remove>(
        {.human = "nbd_server_remove", .human_help = "nbd_server_remove [-f] name -- remove an export previously exposed via NBD"})},
    control::Registered{
        control::human<human_stop>({.human = "nbd_server_stop", .human_help = "nbd_server_stop -- stop serving block devices using NBD"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
