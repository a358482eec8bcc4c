// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// All of the core. Storage and compute backends have headers of their own.
#pragma once

#include "cake/calibration.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/io_lanes.hpp"
#include "cake/kv_layout.hpp"
#include "cake/kv_presence.hpp"
#include "cake/loader.hpp"
#include "cake/metrics.hpp"
#include "cake/queued.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/save.hpp"
#include "cake/saver.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"
#include "cake/ttft_bound.hpp"
#include "cake/types.hpp"
#include "cake/version.hpp"
