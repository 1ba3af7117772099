PRAGMA application_id=1836017012;
PRAGMA user_version=5;
BEGIN TRANSACTION;
CREATE TABLE ceilings (
        target_id TEXT NOT NULL REFERENCES targets (id),
        name TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL, created TEXT NOT NULL,
        PRIMARY KEY (target_id, name));
CREATE TABLE "measurements" (
        id INTEGER PRIMARY KEY,
        trial_id INTEGER NOT NULL REFERENCES trials (id),
        kind TEXT NOT NULL CHECK (kind IN ('trial', 'final', 'audit')),
        temperature TEXT NOT NULL CHECK (temperature IN ('cold', 'warm')),
        samples TEXT NOT NULL CHECK (json_valid(samples)),
        sample_count INTEGER NOT NULL,
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        low_ns REAL NOT NULL CHECK (low_ns BETWEEN 0 AND 1e18),
        high_ns REAL NOT NULL CHECK (high_ns BETWEEN 0 AND 1e18),
        p95_ns REAL, p99_ns REAL, ratio REAL, ratio_low REAL, ratio_high REAL,
        gflop_s REAL, gb_s REAL,
        ceiling TEXT NOT NULL, ceiling_fraction REAL,
        created TEXT NOT NULL);
INSERT INTO "measurements" VALUES(1,1,'final','cold','[1000.0,1001.0]',2,1000.0,990.0,1010.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
INSERT INTO "measurements" VALUES(2,2,'final','cold','[1000.0,1001.0]',2,1000.0,990.0,1010.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
INSERT INTO "measurements" VALUES(3,4,'final','cold','[1000.0,1001.0]',2,16000.0,15840.0,16160.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
INSERT INTO "measurements" VALUES(4,5,'final','cold','[1000.0,1001.0]',2,1000.0,990.0,1010.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
INSERT INTO "measurements" VALUES(5,6,'final','cold','[1000.0,1001.0]',2,1000.0,990.0,1010.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
INSERT INTO "measurements" VALUES(6,8,'final','cold','[1000.0,1001.0]',2,16000.0,15840.0,16160.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,'2026-11-30T12:00:00+00:00');
CREATE TABLE problems (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, data TEXT NOT NULL CHECK (json_valid(data)));
INSERT INTO "problems" VALUES('333157426b53d883','tiny','{"accum_dtype":"float32","activation":"swiglu","correction_bias":false,"dtype":"float32","expert_bias":false,"expert_dim":40,"hidden":48,"num_experts":4,"num_groups":1,"renormalize":true,"router_bias":false,"routing_scale":1.0,"score":"softmax","shared_dim":0,"swiglu_alpha":0.0,"swiglu_limit":0.0,"top_groups":1,"top_k":2,"weight_dtype":"float32"}');
CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        data TEXT NOT NULL CHECK (json_valid(data)), created TEXT NOT NULL);
INSERT INTO "sessions" VALUES('s2','b67ef5ef41276457','333157426b53d883','{"cells":[{"winner":"moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w2_s256_m1_g2_o0_h2","workload":{"load":"uniform","tokens":16}}],"kept":["moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w2_s256_m1_g2_o0_h2"]}','2026-11-30T12:00:00+00:00');
INSERT INTO "sessions" VALUES('s4','02009b0bce69fa78','333157426b53d883','{"cells":[{"winner":"moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w4_s256_m1_g2_o0_h2","workload":{"load":"uniform","tokens":16}}],"kept":["moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w4_s256_m1_g2_o0_h2"]}','2026-11-30T12:00:00+00:00');
CREATE TABLE targets (
        id TEXT PRIMARY KEY, arch TEXT NOT NULL, name TEXT NOT NULL,
        data TEXT NOT NULL CHECK (json_valid(data)));
INSERT INTO "targets" VALUES('b67ef5ef41276457','znver4','Test CPU','{"accelerator":"","arch":"znver4","cores":2,"features":["avx2","avx512bf16","avx512f","fma"],"kind":"cpu","l1d_bytes":32768,"l2_bytes":1048576,"l3_bytes":33554432,"vendor":"amd"}');
INSERT INTO "targets" VALUES('02009b0bce69fa78','znver4','Test CPU','{"accelerator":"","arch":"znver4","cores":4,"features":["avx2","avx512bf16","avx512f","fma"],"kind":"cpu","l1d_bytes":32768,"l2_bytes":1048576,"l3_bytes":33554432,"vendor":"amd"}');
CREATE TABLE trials (
        id INTEGER PRIMARY KEY,
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        variant_id TEXT NOT NULL REFERENCES variants (id),
        tokens INTEGER NOT NULL CHECK (tokens >= 0),
        load TEXT NOT NULL,
        status TEXT NOT NULL
            CHECK (status IN ('ok', 'invalid', 'compile', 'timeout', 'crash', 'wrong', 'slow')),
        message TEXT NOT NULL, source_digest TEXT NOT NULL, binary_key TEXT NOT NULL,
        render_ms REAL, compile_ms REAL, verify_ms REAL, benchmark_ms REAL,
        environment TEXT NOT NULL CHECK (json_valid(environment)),
        session TEXT NOT NULL, created TEXT NOT NULL);
INSERT INTO "trials" VALUES(1,'b67ef5ef41276457','333157426b53d883','6d818d87480f1fc5',1,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(2,'b67ef5ef41276457','333157426b53d883','47308b5119f9922b',1,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(3,'b67ef5ef41276457','333157426b53d883','9037eba7ba9cfb98',1,'uniform','wrong','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(4,'b67ef5ef41276457','333157426b53d883','6d818d87480f1fc5',16,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(5,'02009b0bce69fa78','333157426b53d883','c8b5cd99b1e74b0b',1,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(6,'02009b0bce69fa78','333157426b53d883','6d818d87480f1fc5',1,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(7,'02009b0bce69fa78','333157426b53d883','e519b2b9f9b99bd9',1,'uniform','wrong','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
INSERT INTO "trials" VALUES(8,'02009b0bce69fa78','333157426b53d883','c8b5cd99b1e74b0b',16,'uniform','ok','','','',NULL,NULL,NULL,NULL,'{"toolchain":"Mojo 1.2.0"}','s','2026-11-30T12:00:00+00:00');
CREATE TABLE variants (
        id TEXT PRIMARY KEY, template TEXT NOT NULL, name TEXT NOT NULL,
        config TEXT NOT NULL CHECK (json_valid(config)), pack TEXT NOT NULL);
INSERT INTO "variants" VALUES('6d818d87480f1fc5','moe_cpu','moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w2_s256_m1_g2_o0_h2','{"act_block":16,"chunks":2,"combine":1,"depth_block":0,"dot":0,"gemv_below":2,"gemv_chains":2,"least_rows":8,"panel_vectors":2,"prefetch":0,"prefetch_act":0,"prefetch_panel":1,"prefetch_rows":6,"row_tiles":64,"scratch_keep":1,"scratch_mib":256,"simd_width":16,"tile_rows":12,"tile_vectors":2,"unroll":4,"workers":2}','v16_p2_o0');
INSERT INTO "variants" VALUES('47308b5119f9922b','moe_cpu','moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w1_s256_m1_g2_o0_h2','{"act_block":16,"chunks":2,"combine":1,"depth_block":0,"dot":0,"gemv_below":2,"gemv_chains":2,"least_rows":8,"panel_vectors":2,"prefetch":0,"prefetch_act":0,"prefetch_panel":1,"prefetch_rows":6,"row_tiles":64,"scratch_keep":1,"scratch_mib":256,"simd_width":16,"tile_rows":12,"tile_vectors":2,"unroll":4,"workers":1}','v16_p2_o0');
INSERT INTO "variants" VALUES('9037eba7ba9cfb98','moe_cpu','moe_cpu_v16_r12_c2_p2_a16_b0_t64_u8_f0_n1_q6_d0_y1_k2_l8_w2_s256_m1_g2_o0_h2','{"act_block":16,"chunks":2,"combine":1,"depth_block":0,"dot":0,"gemv_below":2,"gemv_chains":2,"least_rows":8,"panel_vectors":2,"prefetch":0,"prefetch_act":0,"prefetch_panel":1,"prefetch_rows":6,"row_tiles":64,"scratch_keep":1,"scratch_mib":256,"simd_width":16,"tile_rows":12,"tile_vectors":2,"unroll":8,"workers":2}','v16_p2_o0');
INSERT INTO "variants" VALUES('c8b5cd99b1e74b0b','moe_cpu','moe_cpu_v16_r12_c2_p2_a16_b0_t64_u4_f0_n1_q6_d0_y1_k2_l8_w4_s256_m1_g2_o0_h2','{"act_block":16,"chunks":2,"combine":1,"depth_block":0,"dot":0,"gemv_below":2,"gemv_chains":2,"least_rows":8,"panel_vectors":2,"prefetch":0,"prefetch_act":0,"prefetch_panel":1,"prefetch_rows":6,"row_tiles":64,"scratch_keep":1,"scratch_mib":256,"simd_width":16,"tile_rows":12,"tile_vectors":2,"unroll":4,"workers":4}','v16_p2_o0');
INSERT INTO "variants" VALUES('e519b2b9f9b99bd9','moe_cpu','moe_cpu_v16_r12_c2_p2_a16_b0_t64_u8_f0_n1_q6_d0_y1_k2_l8_w4_s256_m1_g2_o0_h2','{"act_block":16,"chunks":2,"combine":1,"depth_block":0,"dot":0,"gemv_below":2,"gemv_chains":2,"least_rows":8,"panel_vectors":2,"prefetch":0,"prefetch_act":0,"prefetch_panel":1,"prefetch_rows":6,"row_tiles":64,"scratch_keep":1,"scratch_mib":256,"simd_width":16,"tile_rows":12,"tile_vectors":2,"unroll":8,"workers":4}','v16_p2_o0');
CREATE TABLE winners (
        id INTEGER PRIMARY KEY,
        trial_id INTEGER NOT NULL REFERENCES trials (id),
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        tokens INTEGER NOT NULL, load TEXT NOT NULL,
        default_trial_id INTEGER REFERENCES trials (id),
        ratio REAL NOT NULL CHECK (ratio BETWEEN 0 AND 1e9),
        ratio_low REAL NOT NULL CHECK (ratio_low BETWEEN 0 AND 1e9),
        ratio_high REAL NOT NULL CHECK (ratio_high BETWEEN 0 AND 1e9),
        is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        gflop_s REAL, gb_s REAL, ceiling_fraction REAL, created TEXT NOT NULL, regret REAL CHECK (regret BETWEEN 1 AND 1e9), foreign_share REAL CHECK (foreign_share BETWEEN 0 AND 1),
        UNIQUE (problem_id, target_id, tokens, load));
INSERT INTO "winners" VALUES(1,2,'b67ef5ef41276457','333157426b53d883',1,'uniform',1,0.9,0.88,0.92,0,900.0,NULL,NULL,NULL,'2026-11-30T12:00:00+00:00',NULL,NULL);
INSERT INTO "winners" VALUES(2,4,'b67ef5ef41276457','333157426b53d883',16,'uniform',4,1.0,1.0,1.0,1,16000.0,NULL,NULL,NULL,'2026-11-30T12:00:00+00:00',NULL,NULL);
INSERT INTO "winners" VALUES(3,6,'02009b0bce69fa78','333157426b53d883',1,'uniform',5,0.9,0.88,0.92,0,900.0,NULL,NULL,NULL,'2026-11-30T12:00:00+00:00',NULL,NULL);
INSERT INTO "winners" VALUES(4,8,'02009b0bce69fa78','333157426b53d883',16,'uniform',8,1.0,1.0,1.0,1,16000.0,NULL,NULL,NULL,'2026-11-30T12:00:00+00:00',NULL,NULL);
CREATE INDEX trials_workload ON trials (problem_id, target_id, tokens);
CREATE INDEX winners_trial ON winners (trial_id);
CREATE TRIGGER winner_inserted BEFORE INSERT ON winners WHEN NOT EXISTS (SELECT 1 FROM trials WHERE id = NEW.trial_id AND status = 'ok'
    AND target_id = NEW.target_id AND problem_id = NEW.problem_id
    AND tokens = NEW.tokens AND load = NEW.load) BEGIN SELECT RAISE(ABORT, 'a winner needs a trial of status ok, of its own workload'); END;
CREATE TRIGGER winner_updated BEFORE UPDATE ON winners WHEN NOT EXISTS (SELECT 1 FROM trials WHERE id = NEW.trial_id AND status = 'ok'
    AND target_id = NEW.target_id AND problem_id = NEW.problem_id
    AND tokens = NEW.tokens AND load = NEW.load) BEGIN SELECT RAISE(ABORT, 'a winner needs a trial of status ok, of its own workload'); END;
CREATE TRIGGER winning_trial_updated BEFORE UPDATE OF status ON trials
        WHEN NEW.status <> 'ok' AND EXISTS (SELECT 1 FROM winners WHERE trial_id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'a winner needs a trial of status ok, of its own workload'); END;
CREATE INDEX measurements_trial ON measurements (trial_id);
CREATE VIEW best AS SELECT
        winners.problem_id, problems.name AS problem_name, problems.data AS problem,
        winners.target_id, targets.arch, targets.name AS target_name, targets.data AS target,
        winners.tokens, winners.load, trials.variant_id, variants.template,
        variants.name AS variant, variants.config, variants.pack,
        winners.trial_id, winners.default_trial_id, winners.is_default,
        winners.ratio, winners.ratio_low, winners.ratio_high, winners.regret, winners.foreign_share,
        winners.median_ns, winners.gflop_s, winners.gb_s, winners.ceiling_fraction,
        measurements.temperature, measurements.low_ns, measurements.high_ns,
        measurements.p95_ns, measurements.p99_ns, measurements.sample_count, measurements.ceiling,
        trials.status, trials.source_digest, trials.binary_key, trials.environment,
        winners.created
    FROM winners
    JOIN problems ON problems.id = winners.problem_id
    JOIN targets ON targets.id = winners.target_id
    JOIN trials ON trials.id = winners.trial_id AND trials.status = 'ok'
    JOIN variants ON variants.id = trials.variant_id
    LEFT JOIN measurements ON measurements.id = (
        SELECT m.id FROM measurements AS m WHERE m.trial_id = trials.id AND m.kind <> 'audit'
        ORDER BY m.kind = 'final' DESC, m.id DESC LIMIT 1);
COMMIT;
