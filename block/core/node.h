// The block graph: nodes (drivers on top of nodes or host files) and the edges by which they are used. A node belongs to one EventLoop;
// all here runs on it. Who uses a node holds an Edge, and every request goes through it: it checks ranges and permissions, aligns,
// keeps overlapping requests apart where that matters, and counts. Drivers override what they can do; the rest works, slower.
#pragma once

#include <cerrno>
#include <list>
#include <memory>
#include <string>

#include "block/core/io_vector.h"
#include "src/base/os_error.h"
#include "src/event/async.h"
#include "src/event/loop_local.h"
#include "src/value/field.h"

namespace vmm::block {

class BlockNode;
class Edge;
struct BlockDriver;
using NodeRef = std::shared_ptr<BlockNode>;

struct WriteFlags {
  bool fua = false;          // on stable storage before the request ends
  bool compressed = false;   // formats that can: store compressed (whole clusters only)
  bool unchanged = false;    // writes what a reader sees there anyway (copy on read, commit)
  bool serialising = false;  // waits for, and holds back, every overlapping request
};
struct ZeroFlags {
  bool may_unmap = false;    // the space may be given back
  bool no_fallback = false;  // fail with ENOTSUP rather than write zeros
  bool fua = false;
  bool unchanged = false;  // as of WriteFlags
};

// What lies at the start of a range, for how far.
struct Extent {
  enum class Kind : u8 {
    data,     // bytes of this node
    zero,     // reads as zeros, without looking below
    backing,  // not here: what the backing node says
  };
  Kind kind = Kind::data;
  u64 length = 0;
  u64 host_offset = 0;  // where it lies in the file (or data-file) child, if has_host_offset
  bool has_host_offset = false;
  bool compressed = false;
  bool present = true;  // kind zero: space is allocated for it
};

enum class Preallocation : u8 { off, metadata, falloc, full };

struct Limits {
  u32 request_alignment = 1;    // offsets and sizes of requests are multiples; a power of two
  u32 memory_alignment = 1;     // of the pieces of an IoVector; a power of two
  u64 max_transfer = 0;         // bytes of one read or write; 0: no limit
  u64 max_zero = 0;             // bytes of one zero(); 0: no limit
  u64 max_discard = 0;          // bytes of one discard(); 0: no limit
  u64 discard_granularity = 0;  // whole units of this are given back; 0: not known
  u64 optimal_transfer = 0;     // cluster size; 0: not known
  u32 max_pieces = 1024;        // of one IoVector
  bool fua = false;             // write() and zero() honour the flag; else the graph flushes after them
};

// What a parent does with a node (needs), and what it bears others to do (shares).
enum Permission : u8 {
  permit_read = 1,
  permit_write = 2,
  permit_write_unchanged = 4,
  permit_resize = 8,
  permit_all = 15,
};
std::string permission_names(u8 permissions);  // "read, write"

enum class Role : u8 { file, data_file, backing, filtered, user };  // user: not a node, but a disk, a job, a tool

enum class DetectZeroes : u8 { off, on, unmap };
enum class DiscardMode : u8 { ignore, unmap };

// What every node may be told, whatever its driver.
struct NodeOptions {
  std::string driver, node_name;
  bool read_only = false, auto_read_only = false, force_share = false;
  bool cache_direct = false;    // O_DIRECT
  bool cache_no_flush = false;  // cache=unsafe: flushes stop here
  DiscardMode discard = DiscardMode::ignore;
  DetectZeroes detect_zeroes = DetectZeroes::off;
};

// --- Drivers ------------------------------------------------------------------------------------------------------------------------

struct CreateOptions {
  u64 length_bytes = 0;
  Value options = Value::object();  // the driver's create_options
};

// One `static RegisteredDriver registered{{.name = "qcow2", …}};` a driver.
struct BlockDriver {
  std::string_view name, doc;
  enum class Kind : u8 { protocol, format, filter } kind = Kind::format;
  std::span<const Field> options{};              // own ones; common ones and children are the graph's
  std::span<const std::string_view> children{};  // names of options that are nodes: "file", "backing", "data-file"
  NodeRef (*make)() = nullptr;
  // Formats: 0 (not mine) to 100 (certain) for the first bytes of an image (as many as there are, 4 KiB at most).
  int (*probe)(std::span<const u8> head, std::string_view filename) = nullptr;
  // Protocols: prefixes of file names ("nbd", "file") and what options such a name means (prefix included).
  std::span<const std::string_view> prefixes{};
  Result<Value> (*parse_filename)(std::string_view filename) = nullptr;
  // Making an image: protocols make an empty one of this name; formats write into a file that is there and empty.
  std::span<const Field> create_options{};
  Task<> (*create_file)(EventLoop& loop, std::string filename, CreateOptions options) = nullptr;
  Task<> (*create_format)(Edge& file, CreateOptions options) = nullptr;
};
struct RegisteredDriver {
  explicit RegisteredDriver(BlockDriver driver);
  BlockDriver driver;
  const RegisteredDriver* next;
};
const BlockDriver* find_driver(std::string_view name);
std::vector<const BlockDriver*> all_drivers();  // sorted by name

template <class T>
NodeRef make_node() {
  return std::make_shared<T>();
}

// --- Requests under way -------------------------------------------------------------------------------------------------------------

// A request in its node's list. Requests that serialise wait for all that overlap, and hold back those that come later.
class Request {
 public:
  Request(BlockNode& node, u64 offset, u64 length);
  ~Request();
  Request(const Request&) = delete;
  bool must_wait() const { return conflict() != nullptr; }
  Task<> wait();                           // until nothing that matters overlaps
  void serialise(u64 offset, u64 length);  // from now on, over this range

 private:
  Request* conflict() const;
  BlockNode& node_;
  u64 begin_, end_;
  bool serialising_ = false;
  u64 number_;
  std::list<Request*>::iterator place_;
  WaitList waiters_;
};

// Is told of whatever changes a node's contents, whoever asks for it. On the node's loop.
class WriteWatcher {
 public:
  virtual ~WriteWatcher() = default;
  // The request waits for this; an error fails it. It may read the node with Edge::read_out_of_order().
  virtual Task<> before_write(u64 /*offset*/, u64 /*length*/) { co_return Result<>{}; }
  // Also after a request that failed: what it left is not known.
  virtual void after_write(u64 /*offset*/, u64 /*length*/) {}
};

struct NodeStatistics {
  u64 read_bytes = 0, write_bytes = 0, read_operations = 0, write_operations = 0, flush_operations = 0, unmap_operations = 0;
  u64 write_highest_offset = 0;
};

// --- Nodes --------------------------------------------------------------------------------------------------------------------------

class BlockNode : public std::enable_shared_from_this<BlockNode> {
 public:
  virtual ~BlockNode();
  BlockNode(const BlockNode&) = delete;

  // --- What a driver overrides. Requests come checked: inside the length (writes may end past it if that may grow), aligned to
  // limits().request_alignment, at most max_transfer long, never empty.
  virtual Task<> read(u64 offset, IoVector into) = 0;
  virtual Task<> write(u64 offset, IoVector from, WriteFlags flags);
  virtual Task<> flush();                                        // all writes that have ended are stable; by default of all children
  virtual Task<> zero(u64 offset, u64 length, ZeroFlags flags);  // ENOTSUP: the graph writes zeros
  virtual Task<> discard(u64 offset, u64 length);                // a hint; by default nothing
  virtual Task<Extent> map(u64 offset, u64 length);              // 0 < length of the answer <= length; by default data
  virtual Task<> truncate(u64 length, Preallocation preallocation);
  virtual u64 length_bytes() const = 0;
  virtual Limits limits() const { return {}; }
  virtual bool grows() const { return false; }  // writes past the end make it longer
  // Takes its own options (children and common ones are taken out already, and named children are opened). An error leaves the node
  // unusable, and its children are released by who opens it.
  virtual Task<> open(Value options) = 0;
  // Before the last user lets go, and when a drain must leave the file complete: nothing is in flight. Errors are reported only.
  virtual Task<> close() { co_return Result<>{}; }
  // What this node does with a child, when its own users need and share this.
  virtual std::pair<u8, u8> child_permissions(Role role, u8 needs, u8 shares) const;
  virtual Result<> permissions_changed(u8 /*needs*/, u8 /*shares*/) { return {}; }
  virtual std::string filename() const;               // as a user would name it; of the file child by default
  virtual Task<u64> allocated_bytes();                // on the host, all files of the node
  virtual Value specific_info() const { return {}; }  // query-block's format-specific, {"type", "data"}
  virtual Value snapshots_info() const { return {}; }
  virtual u64 cluster_bytes() const { return 0; }
  virtual std::string backing_filename() const { return {}; }        // as the image says
  virtual Task<> set_backing(std::string file, std::string format);  // what the image says of it from now on
  virtual Task<> reopen(const NodeOptions& options);                 // read-only on or off; others are refused
  // Another process takes the image over (handover.h). inactivate(): all that the node knows is in its file, and nothing more is written.
  // activate(): what was known may be stale.
  virtual bool can_hand_over() const { return driver().kind != BlockDriver::Kind::format; }
  virtual Task<> inactivate() { co_return Result<>{}; }
  virtual Task<> activate() { co_return Result<>{}; }

  // --- What users read.
  const BlockDriver& driver() const { return *driver_; }
  const std::string& node_name() const { return options_.node_name; }
  const NodeOptions& options() const { return options_; }
  EventLoop& loop() const { return *loop_; }
  bool read_only() const { return options_.read_only; }
  bool inactive() const { return inactive_; }  // not in use here: no writes, no claims on its file
  Edge* child(std::string_view name) const;    // null if absent
  const std::vector<std::unique_ptr<Edge>>& children() const { return children_; }
  const std::vector<Edge*>& parents() const { return parents_; }
  BlockNode* filtered() const;  // of a filter: the node below
  const NodeStatistics& statistics() const { return statistics_; }
  bool probed_raw() const { return probed_raw_; }
  bool busy() const { return !requests_.empty(); }
  const Value& given() const { return given_; }  // the driver's own options, children included, as they were at open
  void add_watcher(std::shared_ptr<WriteWatcher> watcher) { watchers_.push_back(std::move(watcher)); }
  void remove_watcher(const WriteWatcher* watcher);  // requests that are with it already end with it
  template <class T>
  bool watches() const {
    for (const auto& w : watchers_)
      if (dynamic_cast<T*>(w.get())) return true;
    return false;
  }
  u64 write_threshold() const { return write_threshold_; }
  void set_write_threshold(u64 bytes) { write_threshold_ = bytes; }

 protected:
  BlockNode() = default;
  // Opens what an option (a node name, a tree, or a file name to take apart) means and uses it as a child. On the node's loop.
  Task<> open_child(std::string name, Role role, Value what);
  void set_read_only(bool on) { options_.read_only = on; }  // auto-read-only

 private:
  friend class Edge;
  friend class Request;
  friend class Graph;
  friend class Backend;  // moves a tree to another loop
  const BlockDriver* driver_ = nullptr;
  NodeOptions options_;
  EventLoop* loop_ = nullptr;
  std::vector<std::unique_ptr<Edge>> children_;
  std::vector<Edge*> parents_;
  std::list<Request*> requests_;
  u32 serialising_ = 0;
  u64 request_number_ = 0;
  Task<> before_write(u64 offset, u64 length);
  void after_write(u64 offset, u64 length);
  NodeStatistics statistics_;
  Value given_;
  std::vector<std::shared_ptr<WriteWatcher>> watchers_;
  u64 write_threshold_ = 0;  // of block-set-write-threshold; whoever sets it watches
  bool probed_raw_ = false, inactive_ = false;
  u32 depth_ = 0;  // of the chain that led here, limited
};

// One use of a node. Who holds it may send the requests that its permissions allow. Its end does not close the node: release() does.
class Edge {
 public:
  // `user` for messages: "block device 'disk0'", "node 'top'". Fails if the needs do not go with other users' shares.
  static Result<std::unique_ptr<Edge>> make(NodeRef node, std::string name, std::string user, Role role, u8 needs, u8 shares,
                                            BlockNode* parent = nullptr);
  ~Edge();
  Edge(const Edge&) = delete;

  Task<> read(u64 offset, IoVector into);  // past the end: zeros for a parent node, EIO for a user
  // The same without a place in the order of requests: for watchers, whom an older request that overlaps waits for.
  Task<> read_out_of_order(u64 offset, IoVector into);
  Task<> write(u64 offset, IoVector from, WriteFlags flags = {});
  Task<> flush();
  Task<> zero(u64 offset, u64 length, ZeroFlags flags = {});
  Task<> discard(u64 offset, u64 length);
  Task<Extent> map(u64 offset, u64 length);
  Task<> truncate(u64 length, Preallocation preallocation = Preallocation::off);
  u64 length_bytes() const { return node_->length_bytes(); }

  BlockNode& node() const { return *node_; }
  const NodeRef& ref() const { return node_; }
  const std::string& name() const { return name_; }  // "file", "backing", …
  const std::string& user() const { return user_; }
  Role role() const { return role_; }
  BlockNode* parent() const { return parent_; }
  u8 needs() const { return needs_; }
  u8 shares() const { return shares_; }
  Result<> set_permissions(u8 needs, u8 shares);
  // Uses `to` instead, with the same permissions; nothing may be under way through it. On failure all is as before.
  Result<> set_node(NodeRef to);

 private:
  Edge() = default;
  friend class Graph;
  Result<> check(u64 offset, u64 length, u8 needed) const;
  Task<> read_aligned(u64 offset, IoVector into);
  Task<> write_aligned(u64 offset, IoVector from, WriteFlags flags);
  Task<> write_checked(u64 offset, IoVector from, WriteFlags flags);
  Task<> zero_checked(u64 offset, u64 length, ZeroFlags flags);
  NodeRef node_;
  std::string name_, user_;
  Role role_ = Role::user;
  BlockNode* parent_ = nullptr;
  u8 needs_ = 0, shares_ = permit_all;
};
using Child = std::unique_ptr<Edge>;

// --- The graph ----------------------------------------------------------------------------------------------------------------------

// Opens the node that an options tree describes ({"driver": …, "node-name": …, …}; a string is a node's name): blockdev-add's meaning.
// Main loop or tool's loop.
Task<NodeRef> open_node(EventLoop& loop, Value options);
// A name as on a command line: plain, "proto:…", "json:{…}"; with a format, or probed if that is empty. `common` holds NodeOptions
// and further options by their names ("read-only", "cache.direct" as a tree). The warning for a probed raw image is printed.
Task<NodeRef> open_image(EventLoop& loop, std::string filename, std::string format, Value common);
// What a file name means as options of a protocol node (no format).
Result<Value> options_of_filename(std::string_view filename);
// The node below an overlay becomes `to` (null: none); what was there is given up. Nothing may be under way in the overlay. What the image
// says of its backing file stays: BlockNode::set_backing() changes that.
Task<> replace_backing(BlockNode& overlay, NodeRef to);
// Common options of an open node change to what `options` (a whole tree, as for open_node) says, and its backing node may; anything else
// that differs is refused. Nothing may be under way in the node.
Task<> reopen_node(BlockNode& node, Value options);
// Brings what [offset, +length) of an image reads from below into the image itself, atomically; true if anything was copied. `bounce`, if
// not null, gets the bytes.
Task<bool> copy_up(BlockNode& image, u64 offset, u64 length, u8* bounce = nullptr);
// Gives up a reference; closes the node and what is below if it was the last.
Task<> release(NodeRef node);

// Makes an image. `format` empty: raw. Options are the format's and the protocol's create options together.
Task<> create_image(EventLoop& loop, std::string filename, std::string format, CreateOptions options);

// Named nodes that the monitor holds (-blockdev, blockdev-add). Machine lock.
NodeRef find_node(std::string_view node_name);  // any open node of that name
void hold_node(NodeRef node);
Result<NodeRef> take_held_node(std::string_view node_name);  // for blockdev-del: fails if it is used
std::vector<NodeRef> all_nodes();

}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::DetectZeroes> = {EnumNameOf<block::DetectZeroes>{block::DetectZeroes::off, "off"},
                                                               EnumNameOf<block::DetectZeroes>{block::DetectZeroes::on, "on"},
                                                               EnumNameOf<block::DetectZeroes>{block::DetectZeroes::unmap, "unmap"}};
template <>
inline constexpr std::array enum_names<block::DiscardMode> = {
    EnumNameOf<block::DiscardMode>{block::DiscardMode::ignore, "ignore"}, EnumNameOf<block::DiscardMode>{block::DiscardMode::ignore, "off"},
    EnumNameOf<block::DiscardMode>{block::DiscardMode::unmap, "unmap"}, EnumNameOf<block::DiscardMode>{block::DiscardMode::unmap, "on"}};
template <>
inline constexpr std::array enum_names<block::Preallocation> = {
    EnumNameOf<block::Preallocation>{block::Preallocation::off, "off"},
    EnumNameOf<block::Preallocation>{block::Preallocation::metadata, "metadata"},
    EnumNameOf<block::Preallocation>{block::Preallocation::falloc, "falloc"},
    EnumNameOf<block::Preallocation>{block::Preallocation::full, "full"}};
}  // namespace vmm
