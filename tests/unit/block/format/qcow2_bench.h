// qcow2 images in memory for tests: a bench that makes and opens them, and their flavours.
#pragma once

#include <cstdlib>

#include "block/format/qcow2.h"
#include "tests/unit/block/format/recording_file.h"
#include "tests/unit/test.h"

namespace vmm::block::qcow2_bench {
using vmm::test::Disk;
using vmm::test::disks;

constexpr u64 sector = 512;
constexpr u64 disk_bytes = 1 * MiB;
inline u64 number_from(const char* variable, u64 by_default) {
  const char* text = std::getenv(variable);
  return text ? std::strtoull(text, nullptr, 10) : by_default;
}

struct Bench {
  EventLoop loop;
  Child edge;
  std::string name;

  template <class T>
  Result<T> run(Task<T> task) {
    return run_task(loop, std::move(task));
  }
  Qcow2& image() { return dynamic_cast<Qcow2&>(edge->node()); }
  Result<> create(const std::string& file, u64 length, Value options) {
    return run(create_image(loop, "recording:" + file, "qcow2", {.length_bytes = length, .options = std::move(options)}));
  }
  Result<> open(const std::string& file, Value options = Value::object()) {
    Value tree = std::move(options);
    tree.set("driver", Value{"qcow2"});
    tree.set("discard", Value{"unmap"});
    tree.set("file", Value{Value::Members{{"driver", Value{"recording"}}, {"filename", Value{file}}}});
    NodeRef node = TRY(run(open_node(loop, std::move(tree))));
    edge = TRY(Edge::make(node, "root", "the test", Role::user, node->read_only() ? permit_read : permit_all, permit_all));
    return {};
  }
  void close() {
    if (!edge) return;
    NodeRef node = edge->ref();
    edge.reset();
    OK(run(release(std::move(node))));
  }
  ~Bench() {
    if (!edge) return;
    NodeRef node = edge->ref();
    edge.reset();
    (void)run(release(std::move(node)));
  }
};

inline Value tree(std::initializer_list<std::pair<const char*, const char*>> members) {
  Value v = Value::object();
  for (const auto& [name, value] : members) v.set(name, Value{value});
  return v;
}

struct Flavour {
  const char* name;
  Value options;
  bool backing = false;
};
inline std::vector<Flavour> flavours() {
  return {{"plain", tree({})},
          {"small clusters", tree({{"cluster_size", "512"}})},
          {"4k", tree({{"cluster_size", "4k"}, {"refcount_bits", "64"}})},
          {"lazy", tree({{"lazy_refcounts", "on"}, {"cluster_size", "4k"}})},
          {"extended", tree({{"extended_l2", "on"}, {"cluster_size", "16k"}})},
          {"version 2", tree({{"compat", "0.10"}, {"cluster_size", "4k"}})},
          {"on a backing file", tree({{"cluster_size", "16k"}, {"backing_file", "recording:base"}, {"backing_fmt", "raw"}}), true},
          {"extended on a backing file",
           tree({{"extended_l2", "on"}, {"cluster_size", "32k"}, {"backing_file", "recording:base"}, {"backing_fmt", "raw"}}), true},
          {"narrow counts", tree({{"refcount_bits", "2"}, {"cluster_size", "1k"}})}};
}

inline void fill(std::span<u8> bytes, u32 tag) {
  for (u64 i = 0; i + 4 <= bytes.size(); i += 4) store_le(&bytes[i], tag);
}

inline void make_base(u64 length) {
  Disk& base = disks()["base"];
  base = {};
  base.bytes.resize(length);
  for (u64 s = 0; s < length / sector; s++) fill(std::span{base.bytes}.subspan(s * sector, sector), static_cast<u32>(0x4000'0000 + s));
}

}  // namespace vmm::block::qcow2_bench
