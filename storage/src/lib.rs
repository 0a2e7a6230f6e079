//! How samples lie in files and buckets: chunk codecs, index, block, bucket.
