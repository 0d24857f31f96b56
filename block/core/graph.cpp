// Opening and closing of nodes, their edges and permissions, and the registries of drivers and nodes.
#include "block/core/graph.h"

#include <algorithm>

#include "block/core/complete.h"
#include "block/core/drive.h"
#include "src/base/log.h"
#include "src/event/worker_pool.h"

namespace vmm::block {

namespace {
constexpr u32 deepest_chain = 200;
constexpr usize probe_bytes = 4096;

constinit const RegisteredDriver* first_driver = nullptr;

struct Nodes {
  Mutex mutex;
  std::vector<std::weak_ptr<BlockNode>> open GUARDED_BY(mutex);
  std::vector<NodeRef> held GUARDED_BY(mutex);  // by the monitor
  u64 last_number GUARDED_BY(mutex) = 0;
};
Nodes& nodes() {
  static auto& it = *new Nodes;
  return it;
}

// Members of the options tree that every node understands; "cache" and "detect-zeroes" are QMP's names.
struct CacheOptions {
  std::optional<bool> direct, no_flush, writeback;
};
struct CommonOptions {
  std::optional<std::string> driver, node_name;
  std::optional<bool> read_only, auto_read_only, force_share;
  std::optional<CacheOptions> cache;
  std::optional<DiscardMode> discard;
  std::optional<DetectZeroes> detect_zeroes;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::CacheOptions> = {
    field<&block::CacheOptions::direct>("direct", "Go round the host's page cache."),
    field<&block::CacheOptions::no_flush>("no-flush", "Ignore flushes: fast, and not safe against power cuts."),
    field<&block::CacheOptions::writeback>("writeback", "Of a drive: writes end before they are stable."),
};
template <>
inline constexpr std::array fields<block::CommonOptions> = {
    field<&block::CommonOptions::driver>("driver", "Kind of the node."),
    field<&block::CommonOptions::node_name>("node-name", "Name of the node; made up if absent."),
    field<&block::CommonOptions::read_only>("read-only", "No writes."),
    field<&block::CommonOptions::auto_read_only>("auto-read-only", "Read-only if it cannot be opened for writing."),
    field<&block::CommonOptions::force_share>("force-share", "Bear other writers of the file."),
    field<&block::CommonOptions::cache>("cache", "Host cache mode."),
    field<&block::CommonOptions::discard>("discard", "What to do with discards: ignore or unmap."),
    field<&block::CommonOptions::detect_zeroes>("detect-zeroes", "Turn writes of zeros into zero requests: off, on, unmap."),
};
}  // namespace vmm

namespace vmm::block {

std::span<const Field> common_node_options() { return fields<CommonOptions>; }

// --- Drivers ------------------------------------------------------------------------------------------------------------------------

RegisteredDriver::RegisteredDriver(BlockDriver d) : driver(std::move(d)), next(first_driver) { first_driver = this; }
const BlockDriver* find_driver(std::string_view name) {
  for (const auto* r = first_driver; r; r = r->next)
    if (r->driver.name == name) return &r->driver;
  return nullptr;
}
std::vector<const BlockDriver*> all_drivers() {
  std::vector<const BlockDriver*> out;
  for (const auto* r = first_driver; r; r = r->next) out.push_back(&r->driver);
  std::ranges::sort(out, {}, &BlockDriver::name);
  return out;
}

// --- Names --------------------------------------------------------------------------------------------------------------------------

std::string Graph::new_name() {
  Lock lock{nodes().mutex};
  return format("#block{:03}", ++nodes().last_number);
}
NodeRef find_node(std::string_view node_name) {
  Lock lock{nodes().mutex};
  for (const auto& weak : nodes().open)
    if (auto node = weak.lock(); node && node->node_name() == node_name) return node;
  return nullptr;
}
std::vector<NodeRef> all_nodes() {
  Lock lock{nodes().mutex};
  std::vector<NodeRef> out;
  std::erase_if(nodes().open, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : nodes().open)
    if (auto node = weak.lock()) out.push_back(std::move(node));
  return out;
}
void hold_node(NodeRef node) {
  Lock lock{nodes().mutex};
  nodes().held.push_back(std::move(node));
}
Result<NodeRef> take_held_node(std::string_view node_name) {
  Lock lock{nodes().mutex};
  const auto at = std::ranges::find_if(nodes().held, [&](const NodeRef& n) { return n->node_name() == node_name; });
  if (at == nodes().held.end()) {
    for (const auto& weak : nodes().open)
      if (auto node = weak.lock(); node && node->node_name() == node_name) return fail("Node {} is not owned by the monitor", node_name);
    return fail("Failed to find node with node-name='{}'", node_name);
  }
  if (!(*at)->parents().empty())
    return fail("Block device {} is in use: node is used as {} of {}", node_name, (*at)->parents().front()->name(),
                (*at)->parents().front()->user());
  NodeRef node = std::move(*at);
  nodes().held.erase(at);
  return node;
}

// --- Edges and permissions ----------------------------------------------------------------------------------------------------------

Result<> Graph::check_conflicts(const BlockNode& node) {
  for (const Edge* a : node.parents_) {
    if (node.read_only() && a->needs_ & (permit_write | permit_resize))
      return fail_os(EROFS, format("Block node '{}' is read-only, and {} needs to write", node.node_name(), a->user_));
    for (const Edge* b : node.parents_) {
      if (a == b) continue;
      if (const u8 clash = a->needs_ & ~b->shares_)
        return fail_os(EBUSY, format("{} may not {} node '{}', because {} does not allow it", a->user_, permission_names(clash),
                                     node.node_name(), b->user_));
    }
  }
  return {};
}

Result<> Graph::refresh(BlockNode& node) {
  TRY(check_conflicts(node));
  u8 needs = 0, shares = permit_all;
  for (const Edge* e : node.parents_) needs |= e->needs_, shares &= e->shares_;
  for (const auto& c : node.children_) {
    const auto [child_needs, child_shares] = node.child_permissions(c->role_, needs, shares);
    if (c->needs_ == child_needs && c->shares_ == child_shares) continue;
    TRY(c->set_permissions(child_needs, child_shares));
  }
  return node.permissions_changed(needs, shares);
}

Result<> Graph::join(Edge& edge) {
  BlockNode& node = *edge.node_;
  node.parents_.push_back(&edge);
  auto done = refresh(node);
  if (!done) leave(edge);
  return done;
}
void Graph::leave(Edge& edge) {
  BlockNode& node = *edge.node_;
  std::erase(node.parents_, &edge);
  // Fewer needs and more shares than before: nobody can refuse.
  (void)refresh(node);
}

Result<> Edge::set_permissions(u8 needs, u8 shares) {
  const u8 old_needs = std::exchange(needs_, needs), old_shares = std::exchange(shares_, shares);
  auto done = Graph::refresh(*node_);
  if (!done) {
    needs_ = old_needs, shares_ = old_shares;
    (void)Graph::refresh(*node_);
  }
  return done;
}

Result<> Edge::set_node(NodeRef to) {
  if (to == node_) return {};
  if (node_) Graph::leave(*this);
  NodeRef before = std::exchange(node_, std::move(to));
  auto joined = Graph::join(*this);
  if (!joined) {
    node_ = std::move(before);
    if (auto back = Graph::join(*this); !back) report_error(back.error());  // as it was a moment ago: nobody can refuse
  }
  return joined;
}

Result<std::unique_ptr<Edge>> Graph::make_edge(NodeRef node, std::string name, std::string user, Role role, u8 needs, u8 shares,
                                               BlockNode* parent) {
  std::unique_ptr<Edge> edge{new Edge};
  edge->node_ = std::move(node), edge->name_ = std::move(name), edge->user_ = std::move(user);
  edge->role_ = role, edge->needs_ = needs, edge->shares_ = shares, edge->parent_ = parent;
  auto joined = join(*edge);
  if (!joined) {
    edge->node_ = nullptr;
    return std::unexpected(std::move(joined).error());
  }
  return edge;
}
Result<std::unique_ptr<Edge>> Edge::make(NodeRef node, std::string name, std::string user, Role role, u8 needs, u8 shares,
                                         BlockNode* parent) {
  return Graph::make_edge(std::move(node), std::move(name), std::move(user), role, needs, shares, parent);
}
Edge::~Edge() {
  if (node_) Graph::leave(*this);
}

// --- Opening ------------------------------------------------------------------------------------------------------------------------

Result<Value> options_of_filename(std::string_view filename) {
  if (filename.starts_with("json:")) {
    Value tree = TRY(parse_json(filename.substr(5)));
    if (!tree.is_object()) return fail("Invalid JSON object given: '{}' is not an object", filename);
    return tree;
  }
  // A prefix is a word before a colon, with no slash in it: "./a:b" names a file.
  if (const auto colon = filename.find(':'); colon != filename.npos && colon > 0 && filename.substr(0, colon).find('/') == filename.npos) {
    const std::string_view prefix = filename.substr(0, colon);
    for (const BlockDriver* d : all_drivers())
      if (std::ranges::find(d->prefixes, prefix) != d->prefixes.end()) {
        if (d->parse_filename) {
          Value tree = TRY(d->parse_filename(filename));
          tree.set("driver", Value{d->name});
          return tree;
        }
        return Value{Value::Members{{"driver", Value{d->name}}, {"filename", Value{filename.substr(colon + 1)}}}};
      }
    return fail("Unknown protocol '{}'", prefix);
  }
  return Value{Value::Members{{"driver", Value{"file"}}, {"filename", Value{filename}}}};
}

Task<> BlockNode::open_child(std::string name, Role role, Value what) {
  NodeRef node = co_await Graph::open(*loop_, std::move(what), &options_, role, depth_ + 1);
  const auto [needs, shares] = child_permissions(role, 0, permit_all);
  auto edge = Graph::make_edge(node, name, format("node '{}'", node_name()), role, needs, shares, this);
  if (!edge) {
    (void)co_await attempt(Graph::release(std::move(node)));
    co_return std::unexpected(std::move(edge).error());
  }
  children_.push_back(std::move(*edge));
  co_return Result<>{};
}

Task<NodeRef> Graph::open(EventLoop& loop, Value options, const NodeOptions* parent, Role role, u32 depth) {
  if (depth > deepest_chain) co_return fail("the chain of images is more than {} deep", deepest_chain);
  if (options.is_string()) {
    if (NodeRef node = find_node(options.get_string())) co_return node;
    co_return fail("Cannot find device='' nor node-name='{}'", options.get_string());
  }
  if (!options.is_object()) co_return fail("Invalid parameter type for 'file', expected: object or node name");
  // The common options.
  Value common = Value::object();
  for (const Field& f : fields<CommonOptions>)
    if (const Value* v = options.find(f.name)) {
      common.set(std::string{f.name}, *v);
      options.erase(f.name);
    }
  CommonOptions given;
  if (auto ok = assign_fields(&given, fields<CommonOptions>, common); !ok) co_return std::unexpected(std::move(ok).error());
  if (!given.driver) co_return fail("Parameter 'driver' is missing");
  const BlockDriver* driver = find_driver(*given.driver);
  if (!driver || !driver->make) {
    std::vector<std::string> names;
    for (const BlockDriver* d : all_drivers()) names.emplace_back(d->name);
    Error error{format("Unknown driver '{}'", *given.driver)};
    for (const auto& d : names) error.hint += format("{}{}", error.hint.empty() ? "Drivers: " : ", ", d);
    co_return std::unexpected(std::move(error));
  }
  const CacheOptions cache = given.cache.value_or(CacheOptions{});
  NodeOptions o{.driver = *given.driver, .node_name = given.node_name.value_or("")};
  if (o.node_name.empty())
    o.node_name = new_name();
  else if (find_node(o.node_name))
    co_return fail("Duplicate nodes with node-name='{}'", o.node_name);
  else if (o.node_name.size() > 31)
    co_return fail("Node name too long");
  // Children that are described in place take what their parent was told; backing files are never written.
  o.read_only = role == Role::backing ? true : given.read_only.value_or(parent ? parent->read_only : false);
  o.auto_read_only = given.auto_read_only.value_or(parent ? parent->auto_read_only : false);
  o.force_share = given.force_share.value_or(parent ? parent->force_share : false);
  o.cache_direct = cache.direct.value_or(parent ? parent->cache_direct : false);
  o.cache_no_flush = cache.no_flush.value_or(parent ? parent->cache_no_flush : false);
  o.discard = given.discard.value_or(parent && role != Role::backing ? (role == Role::user ? DiscardMode::ignore : DiscardMode::unmap)
                                                                     : DiscardMode::ignore);
  o.detect_zeroes = given.detect_zeroes.value_or(DetectZeroes::off);
  if (o.detect_zeroes == DetectZeroes::unmap && o.discard != DiscardMode::unmap)
    co_return fail("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");

  NodeRef node = driver->make();
  node->driver_ = driver, node->options_ = std::move(o), node->loop_ = &loop, node->depth_ = depth;
  node->given_ = options;
  node->inactive_ = opens_inactive;
  // Named children first, then the driver itself. A backing file is the driver's to open: the image names it.
  Result<> opened;
  for (std::string_view name : driver->children) {
    const Value* what = options.find(name);
    if (!what || name == "backing") continue;
    Value child = *what;
    options.erase(name);
    const Role child_role = driver->kind == BlockDriver::Kind::filter ? (name == driver->children.front() ? Role::filtered : Role::file)
                            : name == "data-file"                     ? Role::data_file
                                                                      : Role::file;
    opened = co_await attempt(node->open_child(std::string{name}, child_role, std::move(child)));
    if (!opened) break;
  }
  for (const auto& c : node->children_)
    if (c->node().read_only() && c->role() != Role::backing && node->options_.auto_read_only) node->options_.read_only = true;
  if (opened) opened = co_await attempt(node->open(std::move(options)));
  if (opened) opened = refresh(*node);
  if (!opened) {
    // What is open below goes; the node itself was never in use.
    for (auto& c : node->children_) {
      NodeRef below = c->ref();
      c.reset();
      (void)co_await attempt(release(std::move(below)));
    }
    node->children_.clear();
    co_return std::unexpected(std::move(opened).error());
  }
  Lock lock{nodes().mutex};
  nodes().open.push_back(node);
  co_return node;
}

Task<> Graph::replace_backing(BlockNode& overlay, NodeRef to) {
  NodeRef before;
  Edge* edge = overlay.child("backing");
  if (edge && to) {
    before = edge->ref();
    auto done = edge->set_node(std::move(to));
    if (!done) co_return done;
  } else if (edge) {
    before = edge->ref();
    std::erase_if(overlay.children_, [&](const auto& c) { return c.get() == edge; });
  } else if (to) {
    const auto [needs, shares] = overlay.child_permissions(Role::backing, 0, permit_all);
    auto made = make_edge(std::move(to), "backing", format("node '{}'", overlay.node_name()), Role::backing, needs, shares, &overlay);
    if (!made) co_return std::unexpected(std::move(made).error());
    overlay.children_.push_back(std::move(*made));
  }
  auto done = refresh(overlay);
  if (before) (void)co_await attempt(release(std::move(before)));
  co_return done;
}
Task<> replace_backing(BlockNode& overlay, NodeRef to) { co_return co_await Graph::replace_backing(overlay, std::move(to)); }

// What is given must be what was given, but for the options that can change.
Task<> Graph::reopen(BlockNode& node, Value options) {
  Value common = Value::object();
  for (const Field& f : fields<CommonOptions>)
    if (const Value* v = options.find(f.name)) {
      common.set(std::string{f.name}, *v);
      options.erase(f.name);
    }
  CommonOptions given;
  if (auto ok = assign_fields(&given, fields<CommonOptions>, common); !ok) co_return ok;
  if (given.driver && *given.driver != node.driver().name) co_return fail("Cannot change the option 'driver'");
  std::optional<NodeRef> backing;
  for (const auto& [name, value] : options.members()) {
    const Edge* below = node.child(name);
    if (name == "backing" && (value.is_null() || value.is_string())) {
      if (value.is_null() && !below) continue;
      if (value.is_string() && below && below->node().node_name() == value.get_string()) continue;
      NodeRef to = value.is_string() ? find_node(value.get_string()) : nullptr;
      if (value.is_string() && !to) co_return fail("Cannot find device='' nor node-name='{}'", value.get_string());
      for (const BlockNode* n = to.get(); n;) {
        if (n == &node) co_return fail("Making '{}' a backing child of '{}' would create a cycle", to->node_name(), node.node_name());
        const Edge* next = n->child("backing");
        n = next ? &next->node() : nullptr;
      }
      backing = std::move(to);
      continue;
    }
    const Value* before = node.given_.find(name);
    const bool same_child = below && ((value.is_string() && below->node().node_name() == value.get_string()) || value.is_object());
    if (!same_child && (!before || *before != value)) co_return fail("Cannot change the option '{}'", name);
  }
  const CacheOptions cache = given.cache.value_or(CacheOptions{});
  if (cache.direct.value_or(false) != node.options_.cache_direct && !node.child("file"))
    co_return fail("Cannot change the option 'cache.direct'");
  NodeOptions wanted = node.options_;
  wanted.read_only = given.read_only.value_or(false);
  wanted.auto_read_only = given.auto_read_only.value_or(false);
  wanted.force_share = given.force_share.value_or(false);
  wanted.discard = given.discard.value_or(DiscardMode::ignore);
  wanted.detect_zeroes = given.detect_zeroes.value_or(DetectZeroes::off);
  wanted.cache_no_flush = cache.no_flush.value_or(false);
  if (wanted.detect_zeroes == DetectZeroes::unmap && wanted.discard != DiscardMode::unmap)
    co_return fail("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
  if (wanted.read_only != node.read_only()) {
    auto reopened = co_await attempt(node.reopen(wanted));
    if (!reopened && !wanted.auto_read_only) co_return reopened;
  }
  if (backing) co_await replace_backing(node, std::move(*backing));
  wanted.read_only = node.read_only();
  node.options_ = std::move(wanted);
  node.given_ = std::move(options);
  co_return Result<>{};
}
Task<> reopen_node(BlockNode& node, Value options) { co_return co_await Graph::reopen(node, std::move(options)); }

bool Graph::opens_inactive = false;
Task<> Graph::inactivate(BlockNode& node) {
  if (node.inactive_) co_return Result<>{};
  co_await node.inactivate();
  node.inactive_ = true;
  co_return refresh(node);
}
Task<> Graph::activate(BlockNode& node) {
  if (!node.inactive_) co_return Result<>{};
  node.inactive_ = false;
  auto done = refresh(node);
  if (done) done = co_await attempt(node.activate());
  if (!done) {
    node.inactive_ = true;
    (void)refresh(node);
  }
  co_return done;
}

Task<NodeRef> open_node(EventLoop& loop, Value options) {
  NodeRef node = co_await Graph::open(loop, std::move(options), nullptr, Role::user, 0);
  co_return node;
}

Task<> Graph::release(NodeRef node) {
  if (!node) co_return Result<>{};
  if (!node->parents_.empty() || node.use_count() > 1) co_return Result<>{};
  while (node->busy()) {  // a request that nobody waits for any more
    co_await switch_to(*node->loop_);
  }
  auto closed = co_await attempt(node->close());
  if (!closed) report_error(closed.error());
  while (!node->children_.empty()) {
    NodeRef below = node->children_.back()->ref();
    node->children_.pop_back();
    (void)co_await attempt(release(std::move(below)));
  }
  co_return Result<>{};
}
Task<> release(NodeRef node) { co_return co_await Graph::release(std::move(node)); }

// --- Images by name -----------------------------------------------------------------------------------------------------------------

namespace {
// The format of an image by its first bytes; raw if nothing is sure.
Task<const BlockDriver*> probe(NodeRef file) {
  auto edge = Edge::make(file, "probe", "the format probe", Role::user, permit_read, permit_all);
  if (!edge) co_return std::unexpected(std::move(edge).error());
  Buffer head{probe_bytes};
  const u64 length = std::min<u64>(probe_bytes, (*edge)->length_bytes());
  co_await (*edge)->read(0, IoVector{head.data(), length});
  const BlockDriver* best = find_driver("raw");
  int best_score = 0;
  for (const BlockDriver* d : all_drivers()) {
    if (!d->probe) continue;
    const int score = d->probe(std::span<const u8>{head.data(), length}, file->filename());
    if (score > best_score) best = d, best_score = score;
  }
  co_return best;
}
// The same for the node that a tree describes, or names.
Task<const BlockDriver*> probe_tree(EventLoop& loop, Value file, const Value& image) {
  if (file.is_object()) {
    file.erase("node-name");
    file.set("read-only", true);
    if (const Value* share = image.find("force-share")) file.set("force-share", *share);
  }
  NodeRef node = co_await open_node(loop, std::move(file));
  auto found = co_await attempt(probe(node));
  (void)co_await attempt(release(std::move(node)));
  co_return found;
}
}  // namespace

Task<Value> complete_tree(EventLoop& loop, Value tree) {
  if (!tree.is_object()) co_return tree;
  const auto named = [](const Value& t) {
    const Value* name = t.is_object() && !t.find("driver") ? t.find("filename") : nullptr;
    return name && name->is_string() ? name : nullptr;
  };
  Value file;
  if (const Value* child = tree.find("file")) {
    file = *child;
  } else if (named(tree)) {
    file = Value::object();
    file.set("filename", *tree.find("filename"));
    tree.erase("filename");
  }
  if (const Value* name = named(file)) {
    auto protocol = options_of_filename(name->get_string());
    if (!protocol) co_return std::unexpected(std::move(protocol).error());
    for (const auto& [key, value] : file.members())
      if (key != "filename") protocol->set(key, value);
    file = std::move(*protocol);
  }
  if (!file.is_null()) tree.set("file", file);
  if (!tree.find("driver") && !file.is_null()) {
    const BlockDriver* format = co_await probe_tree(loop, std::move(file), tree);
    tree.set("driver", Value{std::string{format->name}});
    if (format->name == "raw") tree.set("probed", true);
  }
  if (const Value* backing = tree.find("backing"); backing && backing->is_object()) {
    Value whole = co_await complete_tree(loop, *backing);
    tree.set("backing", std::move(whole));
  }
  co_return tree;
}

Task<NodeRef> open_image(EventLoop& loop, std::string filename, std::string format, Value common) {
  auto tree = options_of_filename(filename);
  if (!tree) co_return std::unexpected(std::move(tree).error());
  if (common.is_null()) common = Value::object();
  const Value* driver_name = tree->find("driver");
  const BlockDriver* named = driver_name && driver_name->is_string() ? find_driver(driver_name->get_string()) : nullptr;
  // "json:" describes the image itself, unless a format is to go on top.
  if (!driver_name && format.empty() && filename.starts_with("json:")) {
    Value whole = co_await complete_tree(loop, std::move(*tree));
    common.erase("file");
    for (auto& [name, value] : common.members())
      if (!whole.find(name)) whole.set(name, value);
    co_return co_await open_node(loop, std::move(whole));
  }
  if (named && filename.starts_with("json:") && (format.empty() || format == named->name)) {
    common.erase("file");
    for (auto& [name, value] : common.members())
      if (!tree->find(name)) tree->set(name, value);
    co_return co_await open_node(loop, std::move(*tree));
  }
  const Value* options_for_file = common.find("file");
  if (options_for_file && options_for_file->is_object())
    for (const auto& [name, value] : options_for_file->members()) tree->set(name, value);
  common.erase("file");
  bool probed = false;
  if (format.empty()) {
    const BlockDriver* found = co_await probe_tree(loop, *tree, common);
    format = found->name;
    probed = format == "raw";
  }
  const BlockDriver* driver = find_driver(format);
  if (!driver) co_return fail("Unknown driver '{}'", format);
  common.set("driver", Value{format});
  if (driver->kind == BlockDriver::Kind::protocol) {
    for (const auto& [name, value] : tree->members())
      if (name != "driver") common.set(name, value);
  } else {
    common.set("file", std::move(*tree));
  }
  if (probed) common.set("probed", true);
  co_return co_await open_node(loop, std::move(common));
}

Task<> create_image(EventLoop& loop, std::string filename, std::string format, CreateOptions options) {
  if (format.empty()) format = "raw";
  const BlockDriver* driver = find_driver(format);
  const bool is_file = format == "raw";  // what the protocol makes is the image already
  if (!driver || (!driver->create_format && !is_file)) co_return fail("Unknown file format '{}'", format);
  auto tree = options_of_filename(filename);
  if (!tree) co_return std::unexpected(std::move(tree).error());
  const Value* protocol_name = tree->find("driver");
  const BlockDriver* protocol = protocol_name && protocol_name->is_string() ? find_driver(protocol_name->get_string()) : nullptr;
  if (!protocol || !protocol->create_file) co_return fail("{}: this protocol cannot make images", filename);
  const Value* name_in_tree = tree->find("filename");
  const std::string plain = name_in_tree && name_in_tree->is_string() ? name_in_tree->get_string() : filename;
  // Options go to whom they belong.
  CreateOptions for_file{.length_bytes = driver->create_format ? 0 : options.length_bytes};
  CreateOptions for_format{.length_bytes = options.length_bytes};
  for (const auto& [name, value] : options.options.members()) {
    if (driver->create_format && find_field(driver->create_options, name))
      for_format.options.set(name, value);
    else if (find_field(protocol->create_options, name))
      for_file.options.set(name, value);
    else
      co_return fail("Invalid parameter '{}'", name);
  }
  co_await protocol->create_file(loop, plain, std::move(for_file));
  if (!driver->create_format) co_return Result<>{};
  tree->set("read-only", false);
  NodeRef node = co_await open_node(loop, std::move(*tree));
  co_await Graph::activate(*node);  // it is ours alone, whoever may have the others
  auto edge = Edge::make(node, "file", "image creation", Role::file, permit_all, permit_read);
  if (!edge) {
    (void)co_await attempt(release(std::move(node)));
    co_return std::unexpected(std::move(edge).error());
  }
  auto made = co_await attempt(driver->create_format(**edge, std::move(for_format)));
  edge->reset();
  (void)co_await attempt(release(std::move(node)));
  co_return made;
}

}  // namespace vmm::block
