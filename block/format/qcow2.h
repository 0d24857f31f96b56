// The qcow2 driver. Source: "The QCOW2 image format" (published specification); docs/qcow2.md says in which order metadata is written
// and why a cut at any point leaves a sound image.
//
// Everything runs on the node's loop; tasks interleave only where they wait. There is no lock around allocation: host clusters are
// claimed in memory between two waits, and only tasks that allocate for the same guest clusters wait for one another.
#pragma once

#include <chrono>
#include <set>

#include "block/core/node.h"
#include "block/format/qcow2_cache.h"
#include "block/format/qcow2_layout.h"
#include "block/format/qcow2_overlap.h"

namespace vmm::block {
namespace qcow2 {

// What an L2 entry says of one cluster, or of one subcluster with extended entries.
enum class Kind : u8 {
  unallocated,        // read the backing file
  unallocated_space,  // the same, but the (sub)cluster has a place in the file (extended L2)
  zero,               // reads as zeros, no space
  zero_space,         // reads as zeros, space is kept
  data,
  compressed,
};

struct L2Entry {
  u64 word = 0, bitmap = 0;
  u64 host() const { return word & offset_mask; }
  bool copied() const { return word & copied_flag; }
  bool compressed() const { return word & compressed_flag; }
};

struct Mapping {
  Kind kind = Kind::unallocated;
  u64 length = 0;  // guest bytes for which this holds
  u64 host = 0;    // data, *_space: address in the (data) file; compressed: the L2 entry
  bool copied = false;
};

enum class Overlap : u8 { none, constant, cached, all };

struct Options {
  std::optional<bool> lazy_refcounts;
  bool pass_discard_request = false, pass_discard_snapshot = true, pass_discard_other = false;
  bool discard_no_unref = false;
  Bytes64 l2_cache_size{}, refcount_cache_size{}, cache_size{}, l2_cache_entry_size{};
  u64 cache_clean_interval = 600;  // seconds
  std::string overlap_check;
  bool repair = true;    // a dirty image is repaired when it is opened for writing
  bool inspect = false;  // the tool's check and repair: opens what is marked corrupt, repairs nothing by itself
};

struct CheckResult {
  u64 corruptions = 0, leaks = 0, errors = 0, corruptions_fixed = 0, leaks_fixed = 0;
  u64 total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0, compressed_clusters = 0;
  u64 image_end = 0;
  std::vector<std::string> messages;  // one a finding, at most some thousands
  u64 messages_dropped = 0;
};
enum class Repair : u8 { none, leaks, all };

}  // namespace qcow2

class Qcow2 final : public BlockNode, private qcow2::SliceCache::Owner {
 public:
  Qcow2();
  ~Qcow2() override;
  static const std::span<const Field> option_fields;

  Task<> open(Value options) override;
  Task<> close() override;
  Task<> read(u64 offset, IoVector into) override;
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override;
  Task<> flush() override;
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override;
  Task<> discard(u64 offset, u64 length) override;
  Task<Extent> map(u64 offset, u64 length) override;
  Task<> truncate(u64 length, Preallocation preallocation) override;
  u64 length_bytes() const override { return header_.virtual_bytes; }
  Limits limits() const override;
  std::pair<u8, u8> child_permissions(Role role, u8 needs, u8 shares) const override;
  Value specific_info() const override;
  Value snapshots_info() const override;
  u64 cluster_bytes() const override { return g_.cluster_bytes(); }
  std::string backing_filename() const override { return header_.backing_file; }
  Task<> reopen(const NodeOptions& options) override;
  bool can_hand_over() const override { return true; }
  Task<> inactivate() override;
  Task<> activate() override;

  // --- For the image tool, jobs and commands. Nothing else may be in flight where a task changes metadata.
  const qcow2::Header& header() const { return header_; }
  const std::vector<qcow2::Snapshot>& snapshots() const { return snapshots_; }
  Task<> create_snapshot(qcow2::Snapshot snapshot);  // name and times are the caller's; id if empty is chosen
  // The same in steps, for a machine that goes on. At rest but for what is said otherwise; what fails is undone by release_held().
  Task<> prepare_to_hold();                    // may take its time
  Task<> hold();                               // this moment is the snapshot's; in memory, of version 3 images
  Task<> keep_held(qcow2::Snapshot snapshot);  // with the state written since the first step, if it says that there is some
  Task<> release_held();                       // there shall be none
  Task<> apply_snapshot(std::string id_or_name);
  Task<> delete_snapshot(std::string id_or_name);
  Task<> read_snapshot(std::string id_or_name);  // from now on this node, which must be read-only, reads as the snapshot
  Task<> make_empty();                           // all that the disk reads is the backing file's again
  Task<qcow2::CheckResult> check(qcow2::Repair repair);
  Task<> set_backing(std::string file, std::string format) override;  // changes the header only
  Task<> fill_new(Preallocation mode);                                // of a disk that has just been made
  Task<> amend(Value options);                                        // create options that may change
  Task<> write_vm_state(u64 at, IoVector from);                       // behind the disk, before keep_held()
  // A snapshot's, from show_vm_state() to hide_vm_state(); at rest.
  Task<> show_vm_state(std::string id_or_name);
  Task<> read_vm_state(u64 at, IoVector into);
  void hide_vm_state() { shown_.clear(); }
  Task<> reserve_vm_state(u64 bytes);  // so much may be written while the disk is in use; itself only at rest
  Task<> drop_vm_state();              // what was written there and belongs to no snapshot; at rest
  bool marked_corrupt() const { return header_.incompatible & qcow2::feature::corrupt; }
  bool marked_dirty() const { return header_.incompatible & qcow2::feature::dirty; }

  // Bitmaps kept in the image ("Bitmaps extension").
  struct BitmapInfo {
    std::string name;
    u32 granularity = 65536;
    u32 flags = 0;
  };
  Task<std::vector<BitmapInfo>> bitmaps();
  Task<> add_bitmap(std::string name, u32 granularity, bool enabled);
  Task<> remove_bitmap(std::string name);
  Task<> clear_bitmap(std::string name);
  Task<> enable_bitmap(std::string name, bool enabled);
  Task<std::vector<u8>> load_bitmap(std::string name);  // one bit a granule, least significant first
  Task<> store_bitmap(std::string name, std::vector<u8> bits);

 private:
  friend struct Qcow2Check;
  using Geometry = qcow2::Geometry;
  using L2Entry = qcow2::L2Entry;
  using Mapping = qcow2::Mapping;
  using SliceRef = qcow2::SliceRef;
  struct Free {
    u64 host, bytes;
    enum class Why : u8 { request, snapshot, other } why;
  };

  // qcow2.cpp
  void tidy();  // now and then: drops what the caches have not been asked for during cache-clean-interval
  Task<> read_header();
  Task<> read_tables();
  Task<> write_header();        // the first cluster anew, all of it (extensions)
  Task<> write_header_words();  // only the first 512 bytes: atomic
  Task<> set_dirty(bool on);
  Task<> repair_if_dirty();
  Task<> write_features();  // the incompatible ones: 8 bytes
  Task<> prepare_write();   // before the first change: autoclear bits, the dirty bit, bitmaps in use
  void mark_corrupt(std::string why);
  std::unexpected<Error> corrupt(std::string why);
  Edge& file() const { return *child("file"); }
  Edge& data_file() const { return data_ ? *data_ : *child("file"); }
  Edge* backing() const { return child("backing"); }
  bool external() const { return data_; }
  bool lazy() const { return lazy_; }

  // qcow2_overlap.cpp
  Task<> collect_regions();
  // Metadata, but of the kind `own`, in the clusters that [offset, +bytes) touches; the lists must not be stale.
  qcow2::Region overlapping(u64 offset, u64 bytes, qcow2::Region own) const;
  Task<> check_overlap(u64 offset, u64 bytes, qcow2::Region own);
  bool may_overlap(u64 offset, u64 bytes, qcow2::Region own) const {
    return overlap_ != qcow2::Overlap::none && (overlap_stale_ || overlapping(offset, bytes, own) != qcow2::Region::none);
  }

  // qcow2_map.cpp
  L2Entry entry_at(const qcow2::Slice& s, u64 index_in_slice) const;
  void set_entry(qcow2::Slice& s, u64 index_in_slice, L2Entry e);
  qcow2::Kind kind_of(const L2Entry& e, u32 subcluster) const;
  u64 slice_entries() const { return l2_.slice_bytes() / g_.l2_entry_bytes(); }
  struct Place {  // of a guest offset
    u64 l1, slice_in_table, index;
  };
  Place place_of(u64 offset) const;
  Task<SliceRef> l2_slice(u64 offset);  // empty if there is no table
  Task<Mapping> lookup(u64 offset, u64 length);
  Result<> check_entry(const L2Entry& e, u64 offset) const;
  Task<> read_mapped(u64 offset, IoVector into, bool below_only);
  Task<> read_compressed(u64 entry, u64 in_cluster, IoVector into);
  Task<> read_backing(u64 offset, IoVector into);

  // qcow2_write.cpp
  Task<SliceRef> l2_slice_for_write(u64 offset);
  Task<> allocate_l2(u64 l1_index);
  Task<> write_allocating(u64 offset, IoVector from, u64* done);
  Task<> write_allocated_clusters(u64 first, u64 count, u64 offset, IoVector from);
  Task<> write_compressed(u64 offset, IoVector from);
  Task<> link_clusters(u64 guest, u64 count, u64 host, u64 data_begin, u64 data_end);
  Task<> zero_clusters(u64 guest, u64 count, bool may_unmap);
  Task<> discard_clusters(u64 guest, u64 count, bool full);
  Task<> write_zero_bytes(u64 offset, u64 length);
  void give_up(const L2Entry& e, Free::Why why);
  Task<> wait_for_allocations(u64 guest, u64 bytes);
  struct Allocating;
  struct InFlight;

  // qcow2_refcount.cpp
  struct Run {
    u64 first = 0, count = 0;  // host clusters
  };
  Task<Run> allocate(u64 want);                           // 1 to want clusters in a row
  Task<u64> allocate_contiguous(u64 count);               // for tables; the first one's address
  Task<u64> allocate_bytes(u64 bytes);                    // for compressed data
  Task<SliceRef> refcount_slice(u64 cluster, bool make);  // empty if there is no block and none is wanted
  Task<> make_refcount_block(u64 block);
  Task<> grow_refcount_table(u64 block);
  Task<> set_made_refcount(u64 cluster);
  Task<u64> refcount(u64 cluster);
  Task<> add_refcount(u64 cluster, i64 by);
  Task<> set_refcounts(u64 first, u64 count, u64 value);
  Task<> free_now(Free f);
  void note_free(u64 host, u64 bytes, Free::Why why);
  u64 refcounts_per_slice() const { return g_.refcounts_in(refcounts_.slice_bytes()); }

  // qcow2_writeback.cpp
  Task<> make_clean(qcow2::SliceCache& cache) override;
  Task<> write_back(bool to_disk);
  Task<> write_refcounts();
  Task<> write_copies(std::vector<qcow2::DirtyCopy> copies, qcow2::SliceCache& cache);
  struct TableCopy {
    std::optional<std::pair<u64, u32>> moved;  // to this offset, so many clusters: bytes is all of it
    std::set<u64> sectors;                     // else these, 512 bytes each
    std::vector<u8> bytes;
  };
  TableCopy copy_refcount_table();
  Task<> write_refcount_table(TableCopy copy);
  Task<> apply_frees(std::vector<Free> frees);
  Task<> mark_cycle();
  Task<> unmark_cycle();
  u64 clusters_on_their_way() const;
  Task<> file_flush();

  // qcow2_snapshot.cpp
  const qcow2::Snapshot* find_snapshot(std::string_view id_or_name) const;
  Task<> share_clusters(u64 first, u64 count);
  Task<> change_refcounts_of(const std::vector<u64>& l1, i64 by);
  Task<> recompute_copied_flags();
  Task<> store_snapshots(std::vector<qcow2::Snapshot> list, u64 l1_offset, u32 l1_size);
  Task<std::vector<u64>> read_l1(u64 offset, u32 size);
  Task<> begin_big_change();
  Task<> end_big_change();

  // qcow2_held.cpp
  static constexpr const char* being_taken = "a snapshot of it is being taken";
  u64 state_begin() const;  // L1 entries of the disk: those after them map the machine's state
  u64 l1_entry(u64 index) const {
    if (!shown_.empty() && index >= state_begin()) return index - state_begin() < shown_.size() ? shown_[index - state_begin()] : 0;
    return index < l1_.size() ? l1_[index] : 0;
  }

  // qcow2_resize.cpp
  Task<> grow_l1(u64 entries);
  Task<> shrink(u64 length);
  Task<> preallocate(u64 from, u64 to, Preallocation mode);

  // qcow2_bitmap.cpp
  Task<std::vector<qcow2::Bitmap>> read_bitmap_directory();
  Task<> store_bitmap_directory(std::vector<qcow2::Bitmap> list);
  Task<std::vector<u64>> read_bitmap_table(const qcow2::Bitmap& b);
  Task<> free_bitmap_data(const qcow2::Bitmap& b);
  Task<> mark_bitmaps_in_use();
  Task<> store_tracked_bitmaps();
  void track_write(u64 offset, u64 length);
  struct Tracked {
    std::string name;
    u32 granularity_bits;
    std::vector<u8> bits;
  };

  qcow2::Header header_;
  Geometry g_;
  qcow2::Options options_;
  Edge* data_ = nullptr;
  bool lazy_ = false, prepared_ = false, open_ = false;
  std::string corrupt_;   // why nothing is written any more
  bool marking_ = false;  // the image is being told so
  WaitList marked_;
  EventLoop* opener_ = nullptr;  // the main loop, or a tool's
  std::vector<u64> l1_;
  std::set<u64> l1_dirty_;  // numbers of its 512-byte sectors
  std::vector<u64> refcount_table_;
  std::set<u64> refcount_table_dirty_;
  std::vector<qcow2::Snapshot> snapshots_;
  u64 snapshot_table_bytes_ = 0;
  std::vector<u64> shown_;                // L1 entries of a snapshot's machine state
  std::optional<std::vector<u64>> held_;  // the L1 table of a snapshot that is being taken
  qcow2::SliceCache l2_{*this}, refcounts_{*this};
  // Overlap checks: L2 tables and refcount blocks as they are now, made anew after changes of many.
  qcow2::Overlap overlap_ = qcow2::Overlap::cached;
  bool overlap_stale_ = true;
  qcow2::ClusterSet active_tables_, inactive_tables_, refcount_blocks_;
  std::vector<Tracked> tracked_;
  std::vector<qcow2::Bitmap> bitmap_directory_;  // as it stands in the image
  bool bitmaps_read_ = false;

  // A refcount table that has grown lies here until the header names it.
  std::optional<std::pair<u64, u32>> moved_table_;  // offset, clusters
  u64 end_cluster_ = 0;                             // nothing at or after it is in use
  u64 free_hint_ = 0;                               // no free cluster before it
  std::multiset<u64> reserved_;                     // first clusters of what is claimed at the end, but not counted yet
  u64 compressed_at_ = 0;                           // where compressed data goes on, 0: nowhere
  AsyncMutex structure_, flushing_, counting_, compressing_, preparing_;
  u64 cycles_begun_ = 0, cycle_done_ = 0;
  bool data_unflushed_ = false;  // data written since the last flush of the file
  // What a cut would leak: clusters claimed since the last cycle began (or on their way then), and those whose counts went down after it.
  u64 claimed_ = 0, settling_ = 0;
  bool cycle_mark_ = false;  // the dirty bit is there for the cycles' sake, who take it away again
  std::vector<Free> frees_;
  std::set<u64> l2_in_making_;
  WaitList l2_made_;
  std::list<Allocating*> allocating_;
  WaitList allocated_;
  // Requests in flight by epoch: freed clusters are used again only when no request that may still know them is under way.
  u64 epoch_ = 0;
  u32 in_flight_[2] = {0, 0};
  WaitList epoch_ended_;
  u64 requests_ = 0;
  std::chrono::steady_clock::time_point tidied_ = std::chrono::steady_clock::now();
  // The last compressed cluster read.
  u64 unpacked_entry_ = 0;
  std::vector<u8> unpacked_;
};

}  // namespace vmm::block
